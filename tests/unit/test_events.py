import contextlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshbridge.fields import Format
from meshbridge.model.events import (
    Event,
    EventType,
    PushError,
    cloudevent,
    cloudevent_attributes,
    decode_push,
    encode,
    gap,
    raw,
)
from tests.support import make_event, push_body

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(min_value=-(2**53), max_value=2**53) | st.text(max_size=30),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=12), children, max_size=3),
    max_leaves=8,
)
tricky = st.sampled_from([',"event_type":"X"', '","data":', '"subscription_id":"x"}', "\\", '"', "}", "a/b"])
datas = st.dictionaries(st.text(max_size=10) | tricky, json_values | tricky, max_size=4) | st.none()


@given(datas, st.sampled_from(["HEALTH", "STATUS", "REMOVED", "EXIT"]), st.integers(min_value=0, max_value=2**40))
def test_the_cloud_event_carries_the_daemons_own_data(data: object, event_type: str, sequence: int) -> None:
    body = push_body(sequence, event_type, "web", data)
    event = decode_push("node-a", "17", body, 1.0, {})
    parsed = orjson.loads(cloudevent(event))
    assert parsed["data"] == data
    assert parsed["id"] == f"node-a/17/{sequence}"
    assert {key: value for key, value in parsed.items() if key != "data"} == cloudevent_attributes(event)
    without = orjson.loads(body)
    del without["subscription_id"]
    assert orjson.loads(raw(event)) == without


def test_the_data_is_the_bytes_that_came() -> None:
    body = push_body(1).replace(b'"output":"line 1\\n"', b'"output":"caf\\u00e9 \\/ 1e2"')
    event = decode_push("node-a", "1", body, 1.0, {})
    assert b'"data":{"finished":false,"output":"caf\\u00e9 \\/ 1e2","position":10}' in cloudevent(event)


@pytest.mark.parametrize("app", ["web", 'quo"te', "päth", "a\\b"])
def test_bodies_in_another_order_or_with_odd_names_are_parsed_instead(app: str) -> None:
    body = orjson.dumps(
        {"event_type": "EXIT", "data": {"exit_code": 1}, "app_name": app, "sequence": 4, "timestamp": 5.5}
    )
    event = decode_push("node-a", "1", body, 1.0, {})
    assert orjson.loads(cloudevent(event))["data"] == {"exit_code": 1}
    assert orjson.loads(cloudevent(event))["subject"] == app
    assert orjson.loads(raw(event))["app_name"] == app


def test_attributes_are_those_of_the_design() -> None:
    event = make_event(42, "START", data={"pid": 1, "process_uuid": "8yJmRcxik16"}, run="1795515804")
    assert orjson.loads(cloudevent(event)) == {
        "specversion": "1.0",
        "id": "node-a/1795515804/42",
        "source": "appmesh://node-a",
        "type": "io.appmesh.app.start",
        "subject": "web",
        "time": "2026-11-24T10:23:40Z",
        "datacontenttype": "application/json",
        "sequence": "00000000000000000042",
        "run": "1795515804",
        "processuuid": "8yJmRcxik16",
        "data": {"pid": 1, "process_uuid": "8yJmRcxik16"},
    }


def test_a_process_is_remembered_from_start_to_exit() -> None:
    processes: dict[str, str] = {}

    def decoded(sequence: int, event_type: str, data: object = ..., app: str = "web") -> str | None:
        return decode_push("d", "1", push_body(sequence, event_type, app, data), 1.0, processes).process_uuid

    assert decoded(1, "STDOUT") is None
    assert decoded(2, "START", {"pid": 1, "process_uuid": "p1"}) == "p1"
    assert decoded(3, "STDOUT") == "p1"
    assert decoded(4, "STDOUT", app="other") is None
    assert decoded(5, "HEALTH", {"health": 1}) is None
    assert decoded(6, "EXIT", {"exit_code": 0}) == "p1"
    assert decoded(7, "STDOUT") is None
    assert processes == {}


def test_a_gap_says_what_was_missed_and_has_no_subject() -> None:
    event = gap("node-a", "17", 5, 9, 1000.25, reconciled=2)
    parsed = orjson.loads(cloudevent(event))
    assert parsed["id"] == "node-a/17/gap/5-9"
    assert parsed["type"] == "io.meshbridge.gap"
    assert "subject" not in parsed
    assert "sequence" not in parsed
    assert parsed["data"] == {"first": 5, "last": 9, "missed": 5, "reconciled": 2}
    assert orjson.loads(cloudevent(gap("node-a", "17", 5, None, 1.0, reconciled=0)))["data"]["missed"] is None
    assert event.app == "@daemon"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1]",
        b"nonsense",
        b"null",
        push_body(1, "NOPE"),
        push_body(1, "GAP"),
        push_body(1, "START", data=None),
        push_body(1).replace(b'"sequence":1', b'"sequence":"x"'),
        push_body(1).replace(b'"app_name":"web",', b""),
    ],
)
def test_what_is_no_event_is_a_push_error(body: bytes) -> None:
    with pytest.raises(PushError):
        decode_push("node-a", "1", body, 1.0, {})


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_a_push_error(body: bytes) -> None:
    with contextlib.suppress(PushError):
        assert isinstance(decode_push("node-a", "1", body, 1.0, {}), Event)


def test_each_format_has_its_body() -> None:
    event = make_event(1, "EXIT", data={"exit_code": 3})
    assert encode(event, Format.BINARY) == b'{"exit_code":3}'
    assert encode(event, Format.CLOUDEVENTS) == cloudevent(event)
    assert encode(event, Format.RAW) == raw(event)


def test_the_numbers_of_event_types_never_change() -> None:
    assert {kind.name: int(kind) for kind in EventType} == {
        "START": 1,
        "EXIT": 2,
        "STDOUT": 3,
        "HEALTH": 4,
        "STATUS": 5,
        "REMOVED": 6,
        "GAP": 7,
    }


# --- a daemon that is not to be trusted ------------------------------------------------------------------------------

DATA = b'{"finished":false,"output":"line 1\\n","position":10}'
FORGERIES = {
    "a key between": DATA + b',"id":"honest/1/666"',
    "two keys": DATA + b',"id":"honest/1/666","source":"appmesh://honest"',
    "a key of the event": DATA + b',"sequence":{"a":1}',
    "data again": b'{"output":"a","position":1},"data":' + DATA,
    "a key in other letters": DATA + b',"\\u0069d":"honest/1/666"',
    "a line": b'{"finished":false,\n"output":"line 1","position":10}',
    "a carriage return": b'{"finished":false,\r"output":"line 1","position":10}',
    "braces in the text": b'{"finished":false,"output":"}","position":10},"id":"x"',
}


@pytest.mark.parametrize("written", FORGERIES.values(), ids=FORGERIES.keys())
def test_an_event_brings_no_attribute_and_no_line_of_its_own(written: bytes) -> None:
    body = push_body(1).replace(DATA, written)
    assert body != push_body(1)
    try:
        event = decode_push("node-a", "1", body, 1.0, {}, subscription="8yJmRcYk2ZN")
    except PushError:
        return
    shown = cloudevent(event)
    assert b"\n" not in shown + raw(event)
    assert b"\r" not in shown + raw(event)
    pairs = orjson.loads(shown)
    assert (pairs["id"], pairs["source"], pairs["data"]) == (
        "node-a/1/1",
        "appmesh://node-a",
        orjson.loads(body)["data"],
    )
    assert set(pairs) == {*cloudevent_attributes(event), "data"}
    assert shown.count(b'"data":') == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"sequence": 2**63},
        {"sequence": -1},
        {"sequence": True},
        {"sequence": 1.0},
        {"timestamp": 1e12},
        {"timestamp": -1e12},
        {"timestamp": 1e300},
        {"timestamp": "5"},
        {"timestamp": None},
        {"app_name": {"a": 1}},
        {"app_name": ""},
        {"app_name": "@daemon"},
        {"app_name": "a" * 70_000},
        {"subscription_id": "another"},
        {"subscription_id": None},
        {"event_type": ["START"]},
        {"data": [1]},
        {"data": "text"},
        {"data": {"output": 5, "position": 1}},
        {"data": {"output": "x", "position": -1}},
        {"data": {"output": "x", "position": 2**63}},
        {"more": 1},
    ],
)
def test_what_no_event_can_be_is_refused(changed: dict[str, object]) -> None:
    body = orjson.dumps(orjson.loads(push_body(1)) | changed)
    with pytest.raises(PushError) as refused:
        decode_push("node-a", "1", body, 1.0, {}, subscription="8yJmRcYk2ZN")
    assert len(str(refused.value)) < 300


def test_a_large_message_must_be_one_long_text() -> None:
    output = "x" * 1_300_000
    body = push_body(1, data={"finished": False, "output": output, "position": 0})
    assert decode_push("node-a", "1", body, 1.0, {}).span == (0, len(output))
    with pytest.raises(PushError, match="more than one long text"):
        decode_push("node-a", "1", push_body(1, "EXIT", data={"a": [{}] * 200_000}), 1.0, {})
    with pytest.raises(PushError, match="at most 8388608"):
        decode_push("node-a", "1", push_body(1, data={"output": "x" * 9_000_000, "position": 0}), 1.0, {})
