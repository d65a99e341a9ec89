"""The landing page and the readiness JSON."""

import json
import re
from html.parser import HTMLParser

from meshbridge.exporter.pages import landing_page, readiness
from meshbridge.model.status import JournalStatus, LinkState, LinkStatus, SinkState, SinkStatus

ATTACK = "<script>alert('&')</script>\"\ud800"
LINKS = [LinkStatus("node-a", LinkState.UP, url="tcp://h:1", connected_since=0.0), LinkStatus("b", last_error=ATTACK)]
SINKS = [
    SinkStatus("ok", SinkState.UP, lag_events=4, lag_seconds=2.2, dead_letters=1),
    SinkStatus("s", last_error=ATTACK),
]


class Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_shows_every_daemon_and_sink_and_is_safe() -> None:
    page = landing_page([ATTACK], LINKS, SINKS, JournalStatus("/j", open=True, bytes=3 * 2**20, events=5)).decode()
    reader = Words()
    reader.feed(page)
    shown = " ".join(reader.words)
    assert "script" not in reader.tags
    assert "Not ready: <script>alert('&')</script>" in shown
    for words in ("node-a", "up", "1970-01-01 00:00:00 UTC", "tcp://h:1", "4 events, 2 s", "5 events, 3.0 MiB, open"):
        assert words in shown
    assert not re.search(r"(?:src|href|action)=.?(?:https?:|//)|@import|url\(", page)  # nothing from outside


def test_the_page_of_a_bridge_without_parts_says_none() -> None:
    page = landing_page([], [], [], JournalStatus("/j")).decode()
    assert "Ready." in page
    assert page.count("none\n") == 2


def test_readiness_tells_state_and_reasons() -> None:
    state = json.loads(readiness(["journal not open"], LINKS[:1], SINKS[:1], JournalStatus("/j", last_error="full")))
    assert state == {
        "ready": False,
        "reasons": ["journal not open"],
        "daemons": {"node-a": {"up": True, "state": "up", "last_error": None}},
        "sinks": {"ok": {"up": True, "state": "up", "lag_events": 4, "dead_letters": 1, "last_error": None}},
        "journal": {"open": False, "events": 0, "last_error": "full"},
    }
    assert json.loads(readiness([], [], [], JournalStatus("/j")))["ready"] is True


def test_readiness_survives_a_text_that_is_no_unicode() -> None:
    assert json.loads(readiness([], LINKS, SINKS, JournalStatus("/j")))["ready"] is True
