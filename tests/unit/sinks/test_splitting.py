"""The splitter: parts fit, join to the whole, and have positions."""

from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshbridge.model.events import Event, cloudevent, raw
from meshbridge.sinks.base import Refused
from meshbridge.sinks.splitting import encoded_parts, split
from tests.support import make_event

TEXTS = st.text(
    st.one_of(
        st.sampled_from('a\n"\\\x00\x1b[3;m\té€𝄞\N{REPLACEMENT CHARACTER}'), st.characters(exclude_categories=["Cs"])
    ),
    min_size=2,
    max_size=3000,
)


def output(text: str, finished: bool = False) -> Event:
    return make_event(42, data={"finished": finished, "output": text, "position": 1000})


def data_of(event: Event) -> dict[str, object]:
    return dict(orjson.loads(event.data))


def text_of(event: Event) -> str:
    return str(data_of(event)["output"])


@given(TEXTS, st.integers(0, 400), st.sampled_from([cloudevent, raw]), st.booleans())
def test_parts_fit_and_make_up_the_whole(
    text: str, room: int, encode: Callable[[Event], bytes], finished: bool
) -> None:
    event = output(text, finished=finished)
    limit = len(encode(output(""))) + 60 + room  # the id of a part, one escaped character, and some room
    parts = encoded_parts(event, limit, encode)
    assert all(len(encoded) <= limit and encoded == encode(part) for part, encoded in parts)
    assert "".join(text_of(part) for part, _ in parts) == text
    if len(parts) == 1:
        assert parts[0][0] is event
        return
    assert [part.id for part, _ in parts] == [f"{event.id}/{number}" for number in range(len(parts))]
    assert [data_of(part)["finished"] for part, _ in parts] == [False] * (len(parts) - 1) + [finished]
    assert all(text_of(part) for part, _ in parts)


@given(TEXTS)
def test_positions_are_right_or_absent(text: str) -> None:
    before = ""
    for part in split(output(text), len(cloudevent(output(""))) + 80, cloudevent):
        if "\N{REPLACEMENT CHARACTER}" in before:
            assert "position" not in data_of(part)
        else:
            assert data_of(part)["position"] == 1000 + len(before.encode())
        before += text_of(part)


@given(TEXTS)
def test_the_same_event_gives_the_same_parts(text: str) -> None:
    limit = len(cloudevent(output(""))) + 100
    event = output(text)
    assert encoded_parts(event, limit, cloudevent) == encoded_parts(event, limit, cloudevent)


def test_what_fits_is_the_event_itself() -> None:
    event = output("short")
    assert split(event, len(cloudevent(event)), cloudevent) == [event]
    assert split(event, len(cloudevent(event)), cloudevent)[0] is event


def test_few_parts_for_plain_text() -> None:
    parts = encoded_parts(output("x" * 1_280_000), 256 * 1024, cloudevent)
    assert len(parts) <= 6


def test_an_escape_of_the_terminal_is_not_cut() -> None:
    text = "\x1b[38;5;196mred\x1b[0m" * 200
    for part in split(output(text), len(cloudevent(output(""))) + 64, cloudevent):
        assert text_of(part).rpartition("\x1b")[2].startswith(("[38;5;196m", "[0m")) or "\x1b" not in text_of(part)


def test_a_text_that_is_all_one_escape_is_cut_all_the_same() -> None:
    text = "\x1b[" + "1;" * 300
    parts = split(output(text), len(cloudevent(output(""))) + 64, cloudevent)
    assert "".join(text_of(part) for part in parts) == text


def test_an_unknown_position_stays_unknown() -> None:
    event = output("abc" * 100)
    event = replace(event, body=event.body.replace(b',"position":1000', b""))
    parts = split(event, len(cloudevent(output(""))) + 64, cloudevent)
    assert len(parts) > 1
    assert all("position" not in data_of(part) for part in parts)


def test_a_backfilled_event_keeps_its_own_id() -> None:
    backfilled = Event(
        "node-a",
        "1",
        None,
        make_event(1).type,
        "web",
        1.0,
        output("x" * 2000).body,
        reconciled=True,
        key="r/web/stdout/17/0+2000",
    )
    parts = split(backfilled, 1200, cloudevent)
    assert [part.id for part in parts][:2] == ["node-a/r/web/stdout/17/0+2000/0", "node-a/r/web/stdout/17/0+2000/1"]
    assert all(part.reconciled for part in parts)


@pytest.mark.parametrize(
    "event", [make_event(1, "EXIT", data={"exit_code": 1, "last_error": "x" * 900, "pid": 2}), output("x"), output("")]
)
def test_what_cannot_be_divided_is_refused(event: Event) -> None:
    with pytest.raises(Refused) as caught:
        split(event, 100, cloudevent)
    assert caught.value.reason == "too_large"


def test_a_limit_below_one_character_is_refused() -> None:
    with pytest.raises(Refused):
        split(output("abc"), 100, cloudevent)
