"""Which event goes to which sink, by which rule, and in what shape."""

import dataclasses
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshbridge.delivery.routing import Route
from meshbridge.fields import Selection, When
from meshbridge.model.events import Event, cloudevent, raw
from tests.support import make_event


def route(**options: Any) -> Route:
    return Route(Selection.model_validate(options))


def exit_of(code: int | None, app: str = "web") -> Event:
    return make_event(1, "EXIT", app, {"exit_code": code, "last_error": "", "pid": 1})


@pytest.mark.parametrize(
    ("when", "rule"),
    [
        ({}, None),
        ({"events": ["STDOUT"]}, None),
        ({"events": ["exit"]}, "when.events: stdout is not in it"),
        ({"apps": ["db-*", "we?"]}, None),
        ({"apps": "db-*"}, "when.apps: no pattern matches web"),
        ({"apps": ["*"], "not_apps": ["web"]}, "when.not_apps: a pattern matches web"),
        ({"labels": {"site": "hall-*"}}, None),
        ({"labels": {"site": "yard"}}, "when.labels.site: node-a has hall-3, wanted is yard"),
        ({"labels": {"stage": "*"}}, "when.labels.stage: node-a has none, wanted is *"),
    ],
)
def test_a_rule_lets_an_event_through_or_says_that_it_did_not(when: dict[str, Any], rule: str | None) -> None:
    decision = Route(Selection.model_validate({"when": when}), labels={"node-a": {"site": "hall-3"}}).decide(
        make_event(1)
    )
    assert decision.wanted is (rule is None)
    assert rule is None or decision.rule == rule


def test_what_lets_an_event_through_is_said_too() -> None:
    assert route().decide(make_event(1)).rule == "when: everything"
    decision = route(when={"events": ["stdout"], "labels": {}, "not_apps": ["db"]}).decide(make_event(1))
    assert decision.rule == "when: events [stdout], not_apps [db]"


@pytest.mark.parametrize(
    ("codes", "wanted"),
    [([], {0, 1, 9, -1, None}), (["0"], {0}), (["1-5"], {1}), (["!0"], {1, 9, -1}), ("0,9", {0, 9}), ([0, 1], {0, 1})],
)
def test_exit_codes_choose_among_exits_and_touch_nothing_else(codes: Any, wanted: set[int | None]) -> None:
    chosen = route(when={"exit_codes": codes})
    assert {code for code in (0, 1, 9, -1, None) if chosen.decide(exit_of(code)).wanted} == wanted
    assert chosen.decide(make_event(1)).wanted


def test_a_mistaken_exit_code_is_refused() -> None:
    with pytest.raises(ValidationError, match="not an exit code: 'none'"):
        When.model_validate({"exit_codes": ["none"]})
    with pytest.raises(ValueError, match="not an exit code"):
        When.model_validate({"exit_codes": ["255-1"]})


def test_owners_are_looked_up_until_they_are_known_and_again_when_they_may_change() -> None:
    owners: dict[str, str] = {}
    asked: list[str] = []

    def owner(_daemon: str, app: str) -> str | None:
        asked.append(app)
        return owners.get(app)

    chosen = Route(Selection(when=When(owners=("ops*",))), owner=owner)
    assert chosen.decide(make_event(1)).rule == "when.owners: web is of an unknown owner"
    owners["web"] = "ops-2"
    assert chosen.decide(make_event(2)).wanted
    assert chosen.decide(make_event(3)).wanted
    assert asked == ["web", "web"]
    chosen.decide(make_event(4, "REMOVED", data={"x": 1}))
    owners["web"] = "someone"
    assert chosen.decide(make_event(5)).rule == "when.owners: web is of someone"


def test_a_sample_of_output_is_the_same_in_every_bridge_and_leaves_the_rest_alone() -> None:
    events = [make_event(number) for number in range(1, 2001)]
    first, second = route(sample=0.25), route(sample=0.25)
    kept = [event.id for event in events if first.take(event)]
    assert kept == [event.id for event in events if second.take(event)]
    assert 400 < len(kept) < 600
    assert all(first.take(exit_of(number)) for number in range(50))
    assert not any(route(sample=0).take(event) for event in events)


def at(number: int, seconds: float, app: str = "web") -> Event:
    return dataclasses.replace(make_event(number, app=app), received_at=seconds)


def test_the_rate_is_of_each_app_and_what_is_unused_lasts_for_a_while() -> None:
    limited = route(rate_limit=10)
    assert sum(limited.decide(at(number, 100.0)).wanted for number in range(100)) == 20
    assert sum(limited.decide(at(number, 100.0, "db")).wanted for number in range(100)) == 20
    assert sum(limited.decide(at(number, 101.0)).wanted for number in range(100)) == 10
    assert sum(limited.decide(at(number, 50.0)).wanted for number in range(100)) == 0  # a clock that stepped back
    assert sum(limited.decide(at(number, 200.0)).wanted for number in range(100)) == 20
    assert limited.decide(at(1, 200.0)).rule == "rate_limit: over 10 STDOUT events a second of web"


@given(rate=st.floats(0.1, 100), steps=st.lists(st.floats(0, 2), max_size=60))
def test_over_any_stretch_the_rate_holds(rate: float, steps: list[float]) -> None:
    limited, now, taken = route(rate_limit=rate), 1000.0, 0
    for step in steps:
        now += step
        taken += limited.decide(at(1, now)).wanted
    assert taken <= max(1.0, 2 * rate) + sum(steps) * rate + 1e-6


def test_fields_are_dropped_and_added_and_the_id_stays() -> None:
    event = make_event(1, data={"output": "x", "position": 3, "finished": False, "deep": {"a": 1, "b": 2}})
    changed = route(reshape={"drop": ["position", "deep.a", "no.such"], "add": {"site": "hall-3"}}).take(event)
    assert changed is not None
    assert orjson.loads(changed.data) == {"output": "x", "finished": False, "deep": {"b": 2}, "site": "hall-3"}
    assert orjson.loads(cloudevent(changed))["id"] == event.id
    assert orjson.loads(raw(changed))["data"]["site"] == "hall-3"


def test_without_reshape_the_very_event_is_handed_on() -> None:
    event = make_event(1)
    assert route().take(event) is event


def test_memory_of_apps_is_bounded() -> None:
    chosen = route(rate_limit=1, when={"owners": ["*"]})
    chosen._owner = lambda _daemon, _app: "someone"
    for number in range(40_000):
        chosen.decide(make_event(number, app=f"run-{number}"))
    assert max(len(chosen._decided), len(chosen._owners), len(chosen._buckets)) <= 16_384
