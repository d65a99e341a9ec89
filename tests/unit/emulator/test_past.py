"""The demo's synthetic day: in order, within its time, and plainly synthetic."""

import itertools

import orjson

from meshbridge.emulator.past import synthetic_day
from meshbridge.model.events import EventType

END = 1_795_515_820.0


def test_it_is_a_day_in_order_and_says_what_it_is() -> None:
    events = synthetic_day("demo", END)
    assert events == synthetic_day("demo", END)
    assert all(one.received_at <= other.received_at for one, other in itertools.pairwise(events))
    assert END - 86_400 <= events[0].received_at < events[-1].received_at < END
    assert len({event.id for event in events}) == len(events)
    assert all("/synthetic/" in event.id and event.sequence is None for event in events)
    outputs = [orjson.loads(event.data)["output"] for event in events if event.type is EventType.STDOUT]
    assert outputs
    assert all(text.startswith("(synthetic) ") for text in outputs)


def test_each_process_that_starts_has_ended() -> None:
    events = synthetic_day("demo", END)
    for app in ("talker", "crasher", "reporter", "patient"):
        kinds = [event.type for event in events if event.app == app and event.type in {EventType.START, EventType.EXIT}]
        assert kinds == [EventType.START, EventType.EXIT] * (len(kinds) // 2), app
