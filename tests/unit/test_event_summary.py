"""What a person reads of an event."""

import pytest

from meshbridge.model.event_summary import printable, summary


@pytest.mark.parametrize(
    ("label", "data", "text"),
    [
        ("start", {"pid": 42}, "pid 42"),
        ("exit", {"exit_code": 3}, "exit code 3"),
        ("stdout", {"output": "one\ntwo\n", "position": 0}, "one ⏎ two"),
        ("health", {"health": 0}, "healthy"),
        ("health", {"health": 1}, "unhealthy"),
        ("status", {"status": "disabled"}, "disabled"),
        ("gap", {"first": 3, "last": 4, "missed": 2}, "2 events missed"),
        ("gap", {"missed": None}, "an unknown number of events missed"),
        ("removed", {}, ""),
        ("new-in-a-later-daemon", {"a": 1, "b": "c"}, "a 1, b c"),
    ],
)
def test_an_event_in_a_line(label: str, data: dict[str, object], text: str) -> None:
    assert summary(label, data) == text


def test_output_cannot_steer_the_terminal() -> None:
    assert printable("\x1b[2Jgone\x07\r\u202e") == "\\x1b[2Jgone\\x07\\r\\u202e"
    assert printable("tab\t stays, like é and 木") == "tab\t stays, like é and 木"
    assert summary("stdout", {"output": "\x1b]0;title\x07"}) == "\\x1b]0;title\\x07"
