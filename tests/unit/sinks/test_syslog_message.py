"""Syslog messages of events, held to the grammar of RFC 5424."""

import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshbridge.fields import Format
from meshbridge.model.events import Event, gap
from meshbridge.sinks.base import Refused
from meshbridge.sinks.syslog_message import Messages, severity
from tests.support import make_event

MESSAGE = re.compile(
    r"<(?P<priority>\d{1,3})>1 (?P<time>\S+) (?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48}) (?P<process>[!-~]{1,128}) "
    r'(?P<kind>[!-~]{1,32}) \[(?P<element>[!-~]{1,32}?)(?P<data>(?: [!-~]{1,32}="(?:[^"\\\]]|\\.)*")*)\] (?P<text>.*)',
    re.DOTALL,
)
PARAMETER = re.compile(r' ([!-~]+?)="((?:[^"\\\]]|\\.)*)"')


def messages(shape: Format = Format.BINARY, max_bytes: int = 8192) -> Messages:
    return Messages("daemon", shape, "ce@32473", max_bytes)


def parsed(message: bytes) -> dict[str, Any]:
    match = MESSAGE.fullmatch(message.decode())
    assert match is not None, message
    values = {name: re.sub(r"\\(.)", r"\1", value) for name, value in PARAMETER.findall(match["data"])}
    return match.groupdict() | {"data": values}


def output(text: str, app: str = "web") -> Event:
    return make_event(7, app=app, data={"finished": False, "output": text, "position": 0})


def test_each_line_of_output_is_a_message() -> None:
    first, second = map(parsed, messages().of(output("one\r\ntwo\n")))
    assert (first["text"], second["text"]) == ("one", "two")
    assert (first["host"], first["app"], first["kind"]) == ("node-a", "web", "STDOUT")
    assert first["data"]["id"] == second["data"]["id"] == "node-a/1/7"
    assert [first["data"]["line"], second["data"]["line"]] == ["0", "1"]
    assert messages().of(output("")) == []


@given(st.text(), st.text(min_size=1, max_size=80).filter(lambda app: app.isprintable()))
def test_any_output_of_any_app_keeps_to_the_grammar_and_the_limit(text: str, app: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    made = messages(max_bytes=2048).of(output(text, app.encode("utf-8", "replace").decode()))
    assert all(len(message) <= 2048 for message in made)
    for number, message in enumerate(made):
        found = parsed(message)
        assert found["data"]["line"] == str(number)
        assert found["text"].removeprefix("\ufeff").replace("\t", "").isprintable()


def test_a_long_line_is_cut_between_characters() -> None:
    texts = [parsed(message)["text"] for message in messages(max_bytes=2048).of(output("ä" * 5000))]
    assert len(texts) > 1
    assert all(text.startswith("\ufeff") for text in texts)
    assert "".join(text.removeprefix("\ufeff") for text in texts) == "ä" * 5000


def test_output_cannot_begin_a_message_of_its_own() -> None:
    [only] = messages().of(output("x\r<0>1 - forged - - - -"))
    assert b"\r" not in only


def test_the_pid_of_start_names_the_process_of_what_follows() -> None:
    made = messages()
    start = make_event(1, "START", data={"pid": 4711, "process_uuid": "u-1"})
    process = start.process_uuid
    assert process == "u-1"
    assert parsed(made.of(start)[0])["process"] == "4711"
    unknown = make_event(2, "START", data={"pid": None, "process_uuid": "u-2"})
    assert parsed(made.of(unknown)[0])["process"] == "u-2"
    assert parsed(made.of(output("x"))[0])["process"] == "-"


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (make_event(1, "EXIT", data={"exit_code": 0}), "info"),
        (make_event(1, "EXIT", data={"exit_code": 3}), "err"),
        (make_event(1, "EXIT", data={"exit_code": None}), "warning"),
        (make_event(1, "HEALTH", data={"health": 0}), "notice"),
        (make_event(1, "HEALTH", data={"health": 1}), "warning"),
        (make_event(1, "STATUS", data={"status": "disabled"}), "notice"),
        (gap("node-a", "1", 3, 5, 1.0, reconciled=0), "warning"),
        (output("x"), "info"),
    ],
)
def test_severity_follows_the_event(event: Event, expected: str) -> None:
    assert severity(event) == expected


def test_other_events_are_their_data_and_whole_events_on_request() -> None:
    event = make_event(1, "EXIT", data={"exit_code": 3})
    found = parsed(messages().of(event)[0])
    assert orjson.loads(found["text"]) == {"exit_code": 3}
    assert found["priority"] == str(3 * 8 + 3)
    whole = parsed(messages(Format.CLOUDEVENTS).of(event)[0])
    assert orjson.loads(whole["text"])["id"] == whole["data"]["id"]


def test_a_gap_is_of_the_daemon() -> None:
    assert parsed(messages().of(gap("node-a", "1", 3, 5, 1.0, reconciled=0))[0])["app"] == "appmesh"


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(Refused, match="cannot be divided"):
        messages(max_bytes=2048).of(make_event(1, "EXIT", data={"last_error": "x" * 3000}))
    with pytest.raises(Refused, match="no room"):
        messages(max_bytes=2048).of(output("x", app="ä" * 1024))
