"""The notify sink at a mail server, a hook and a plugin of Apprise, driven by its courier and by a whole bridge."""

import contextlib
import email
import email.policy
import threading
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import apprise
import orjson
import pytest
from aiosmtpd.controller import Controller

from meshbridge.config.load import load, shown
from meshbridge.delivery import BridgeFeed, Courier, explain
from meshbridge.delivery.routing import Route
from meshbridge.journal import Journal, JournalOptions
from meshbridge.model.events import Envelope
from meshbridge.model.problems import BridgeProblem, BridgeProblemKind, Severity
from meshbridge.service.service import Service
from meshbridge.sinks.base import Later, NotConnected, Refused, Retry
from meshbridge.sinks.notify import NotifyOptions
from meshbridge.sinks.notify.sink import NotifySink
from tests.contract.sinks.http_server import Exchange, HttpServer
from tests.support import envelopes, free_port, make_event, wait_for, write_config

SECONDS = 10.0
TOKEN = "k3y-of-the-room-42"


class Mailbox:
    """A handler of aiosmtpd that keeps mail."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 aiosmtpd's name
        found = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(found, EmailMessage)
        self.mails.append(found)
        return "250 OK"


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, str]]:
    box = Mailbox()
    port = free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box, f"mailto://127.0.0.1:{port}?from=bridge@example.com&to=ops@example.com&mode=insecure"
    controller.stop()


class Hook:
    """Takes what the JSON plugin sends, or answers with a status."""

    def __init__(self) -> None:
        self.status = 204
        self.messages: list[dict[str, Any]] = []
        self.server = HttpServer(self._meet)
        self.server.start()

    def _meet(self, exchange: Exchange) -> None:
        if self.status < 300:
            self.messages.append(orjson.loads(exchange.request.body))
        exchange.answer(self.status)

    @property
    def url(self) -> str:
        return self.server.url.replace("http:", "json:").replace("/hook", f"/{TOKEN}")


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.server.stop()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(JournalOptions(path=tmp_path / "journal"))
    journal.open()
    yield journal
    journal.close()


def options(url: str, **settings: Any) -> NotifyOptions:
    return NotifyOptions.model_validate({"type": "notify", "url": url, "group_wait": 0} | settings)


def failure(number: int, app: str = "web", code: int = 3) -> Any:
    return make_event(number, "EXIT", app=app, data={"exit_code": code})


@contextlib.contextmanager
def delivering(
    journal: Journal, chosen: NotifyOptions, problems: Callable[[], list[BridgeProblem]] = list
) -> Iterator[Courier]:
    sink = NotifySink("people", chosen)
    sink.view_bridge(BridgeFeed(journal, problems))
    courier = Courier("people", sink, journal, chosen)
    courier.start()
    yield courier
    courier.stop(SECONDS)


def test_a_mail_says_what_has_failed_how_often_and_its_last_lines(
    mailbox: tuple[Mailbox, str], journal: Journal
) -> None:
    box, url = mailbox
    with delivering(journal, options(url, group_wait="1s")):
        lines = [make_event(number, data={"output": f"line {number}\n", "position": 0}) for number in range(1, 16)]
        others = [make_event(20 + number, app="db", data={"output": "other\n", "position": 0}) for number in range(5)]
        journal.append([*lines, *others, failure(30), failure(31), failure(32, "db")])
        [mail] = wait_for(lambda: box.mails, "a mail")
    assert mail["subject"] == "web on node-a exited with code 3, and 1 more"
    body = mail.get_body(("plain", "html"))
    assert body is not None
    text = body.get_content()
    assert "(2 times in the last hour)" in text
    assert "line 6" in text
    assert "line 15" in text
    assert "line 5\n" not in text
    assert text.index("line 15") < text.index("db on node-a exited")


def test_what_was_held_when_the_bridge_ended_is_told_by_the_next_one(hook: Hook, journal: Journal) -> None:
    with delivering(journal, options(hook.url, group_wait="1h")) as courier:
        journal.append([failure(1)])
        wait_for(lambda: courier.status().lag_events, "the event to wait")
        assert courier.status().state.value == "up"
    assert hook.messages == []
    with delivering(journal, options(hook.url)) as courier:
        wait_for(lambda: hook.messages, "the message")
        wait_for(lambda: not courier.status().lag_events, "the cursor to move")
    assert hook.messages[0]["title"] == "web on node-a exited with code 3"
    assert hook.messages[0]["type"] == "failure"


def test_a_message_that_the_service_refuses_is_a_dead_letter(hook: Hook, journal: Journal) -> None:
    hook.status = 422
    with delivering(journal, options(hook.url)) as courier:
        journal.append([failure(1)])
        wait_for(lambda: courier.status().dead_letters, "a dead letter")
        hook.status = 204
        journal.append([failure(2, "db")])
        wait_for(lambda: hook.messages, "the next message")
    [letter] = journal.letters.find("people")
    assert "422" in letter.error
    assert TOKEN not in letter.error


def test_a_service_that_fails_is_tried_again(hook: Hook, journal: Journal) -> None:
    hook.status = 503
    with delivering(journal, options(hook.url, retry={"initial": "10ms", "max": "50ms"})) as courier:
        journal.append([failure(1)])
        wait_for(lambda: courier.status().failed > 2, "some attempts")
        hook.status = 204
        wait_for(lambda: hook.messages, "the message")
        wait_for(lambda: courier.status().delivered, "its acknowledgement")
    assert len(hook.messages) == 1
    assert journal.letters.find("people") == []


def test_a_plugin_of_apprise_gets_the_templates_text(journal: Journal) -> None:
    told: list[tuple[str, str]] = []
    arrived = threading.Event()

    @apprise.decorators.notify(on="meshtest", name="Test")  # type: ignore[untyped-decorator, no-untyped-call]
    def take(body: str, title: str, *_arguments: Any, **_named: Any) -> None:
        told.append((title, body))
        arrived.set()

    chosen = options(
        "meshtest://anywhere",
        title="{{ total }} of {{ entries[0].daemon }}",
        body="{% for one in entries %}{{ one.app }}={{ one.data.exit_code }} {% endfor %}{{ events | length }}",
        when={"events": ["exit"], "exit_codes": ["9"]},
    )
    with delivering(journal, chosen):
        journal.append([failure(1, code=9)])
        assert arrived.wait(SECONDS)
    assert told == [("1 of node-a", "web=9 1")]


class View:
    def __init__(self) -> None:
        self.present: list[BridgeProblem] = []

    def problems(self) -> list[BridgeProblem]:
        return self.present

    def output_before(self, _envelope: Envelope, _lines: int) -> list[str]:
        return []


def problem(sink: str | None = None) -> BridgeProblem:
    kind = BridgeProblemKind.DAEMON_DOWN if sink is None else BridgeProblemKind.SINK_FAILING
    where = "daemon node-a" if sink is None else f"sink {sink}"
    return BridgeProblem(kind, Severity.CRITICAL, where, "No connection.", "Run check.", "runbook", sink=sink)


def idle_until(sink: NotifySink, hook: Hook, count: int) -> None:
    def told() -> bool:
        sink.idle()
        return len(hook.messages) >= count

    wait_for(told, f"{count} messages")
    sink.idle()


def test_problems_of_the_bridge_are_told_without_any_event(hook: Hook, tmp_path: Path) -> None:
    sink, view = options(hook.url).build("people", tmp_path), View()
    sink.view_bridge(view)
    sink.connect(SECONDS)
    view.present = [problem(), problem("people"), problem("broker")]
    idle_until(sink, hook, 1)
    view.present = [problem("people"), problem("broker")]
    idle_until(sink, hook, 2)
    sink.close(SECONDS)
    first, second = hook.messages
    assert first["title"] == "daemon node-a is down, and 1 more"
    assert "sink broker: sink failing" in first["message"]
    assert "people" not in first["message"]  # it cannot tell of itself
    assert (second["title"], second["type"]) == ("Resolved: daemon node-a is up again", "success")


def test_a_problem_that_could_not_be_told_is_tried_again(hook: Hook, tmp_path: Path) -> None:
    hook.status = 503
    sink, view = options(hook.url).build("people", tmp_path), View()
    sink.view_bridge(view)
    sink.connect(SECONDS)
    view.present = [problem()]

    def failed() -> bool:
        try:
            sink.idle()
        except Retry as error:
            return "503" in str(error)
        return False

    wait_for(failed, "the failure to be reported")
    hook.status = 204
    idle_until(sink, hook, 1)
    sink.close(SECONDS)


def test_a_bridge_tells_that_its_daemon_is_down(hook: Hook, tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "meshbridge.yaml",
        {
            "daemons": {"node-a": {"url": f"tcp://127.0.0.1:{free_port()}", "username": "a", "password": "b"}},
            "sinks": {"people": {"type": "notify", "url": hook.url, "group_wait": 0}},
            "journal": {"path": str(tmp_path / "journal")},
            "exporter": {"listen": "127.0.0.1:0"},
        },
    )
    settings = load(config, {}, run_secrets=tmp_path)
    assert TOKEN not in str(shown(settings))
    service = Service(settings)
    service.start()
    try:
        wait_for(lambda: hook.messages, "the message")
    finally:
        service.stop()
    assert hook.messages[0]["title"] == "daemon node-a is down"
    assert "meshbridge check" in hook.messages[0]["message"]


def test_nothing_is_held_as_a_failure(hook: Hook, tmp_path: Path) -> None:
    sink = options(hook.url, group_wait="1h").build("people", tmp_path)
    sink.connect(SECONDS)
    batch = envelopes([make_event(1, "HEALTH", data={"health": 0}), failure(2)])
    with pytest.raises(Later) as caught:
        sink.write(batch, SECONDS)
    assert caught.value.acknowledged == 1
    assert 3500 < caught.value.after_seconds <= 3600
    sink.close(SECONDS)


def test_explain_shows_the_message_and_no_secret(hook: Hook) -> None:
    chosen = options(hook.url)
    [found] = explain(failure(1), {"people": chosen}, Route)
    [message] = found.messages
    assert message.headers["title"] == "web on node-a exited with code 3"
    assert message.to == "the service of json://…"
    [quiet] = explain(failure(1, code=0), {"people": chosen}, Route)
    assert (quiet.wanted, quiet.messages) == (True, ())


def test_check_says_what_is_wrong_with_a_url(hook: Hook, mailbox: tuple[Mailbox, str], tmp_path: Path) -> None:
    assert "accepts the connection" in options(hook.url).probe(SECONDS).text
    assert "accepts the connection" in options(mailbox[1]).probe(SECONDS).text
    assert options("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#ops").probe(SECONDS).untried is not None
    with pytest.raises(NotConnected, match="nosuch://") as caught:
        options(f"nosuch://{TOKEN}").probe(SECONDS)
    assert TOKEN not in str(caught.value)
    with pytest.raises(NotConnected, match="cannot connect to 127"):
        options(f"json://127.0.0.1:{free_port()}/x").probe(SECONDS)
    file = tmp_path / "url"
    file.write_text("json://127.0.0.1:1/x\n")
    with pytest.raises(NotConnected, match="cannot connect"):
        NotifyOptions.model_validate({"type": "notify", "url_file": str(file)}).probe(SECONDS)


def test_a_template_that_fails_costs_its_event_alone(hook: Hook, tmp_path: Path) -> None:
    sink = options(hook.url, title="{{ entries[0].data.exit_code + 'x' }}").build("people", tmp_path)
    sink.connect(SECONDS)
    with pytest.raises(Refused, match="template fails for event node-a/1/1"):
        sink.write(envelopes([failure(1)]), SECONDS)
    sink.close(SECONDS)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"url": None}, "needs url or url_file"),
        ({"url": "slack"}, "begins with the service"),
        ({"quiet_hours": "22:00"}, "not quiet hours"),
        ({"quiet_hours": "07:00-07:00"}, "not quiet hours"),
        ({"quiet_hours": "24:00-07:00"}, "not quiet hours"),
        ({"problems": ["no_such"]}, "daemon_down"),
        ({"max_per_hour": 0}, "greater than or equal"),
        ({"title": "{{ entries"}, "template"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        NotifyOptions.model_validate({"type": "notify", "url": "json://h"} | settings)
