"""When the notify sink tells what: grouping, repetition, resolution, bounds. Time is a number here."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshbridge.model.events import Envelope
from meshbridge.model.problems import BridgeProblem, BridgeProblemKind, Severity
from meshbridge.sinks.notify.groups import Groups, Hold, Nothing, NoticeKind, NoticeLimits, Send
from meshbridge.sinks.notify.message import sign_of
from tests.support import make_event

T0 = 1_795_515_820.0


def event(offset: int, kind: str, app: str = "web", at: float = 0.0, **data: object) -> Envelope:
    made = make_event(offset, kind, app=app, data=data or None)
    fields = {name: getattr(made, name) for name in ("daemon", "run", "sequence", "type", "app", "body")}
    return Envelope(offset, type(made)(**fields, timestamp=T0 + at, received_at=T0 + at))


def failed(offset: int, app: str = "web", at: float = 0.0, code: int = 3) -> Envelope:
    return event(offset, "EXIT", app, at, exit_code=code)


def health(offset: int, value: int, app: str = "web", at: float = 0.0) -> Envelope:
    return event(offset, "HEALTH", app, at, health=value)


def down(name: str = "node-a") -> BridgeProblem:
    kind = BridgeProblemKind.DAEMON_DOWN
    return BridgeProblem(kind, Severity.CRITICAL, f"daemon {name}", "no connection", "check", "runbook")


@dataclass
class Desk:
    """Offers as the courier does: what is not dealt with comes again, with what is new behind it."""

    limits: NoticeLimits = field(default_factory=NoticeLimits)
    quiet_until: float | None = None

    def __post_init__(self) -> None:
        self.groups = Groups(self.limits)
        self.waiting: list[Envelope] = []
        self.told: list[tuple[float, Send]] = []
        self.acknowledged: list[int] = []

    def offer(self, now: float, *envelopes: Envelope, problems: Sequence[BridgeProblem] = ()) -> Nothing | Hold | Send:
        self.waiting += envelopes
        self.groups.problems(problems, now)
        quiet = self.quiet_until if self.quiet_until is not None and now < self.quiet_until else None
        signed = [(one, sign_of(one.event, every_exit=False)) for one in self.waiting]
        found = self.groups.events(signed, now, quiet) if signed else self.groups.time_passes(now, quiet)
        if isinstance(found, Hold):
            self._acknowledge(found.done)
        else:
            if isinstance(found, Send):
                self.told.append((now, found))
                self.groups.sent(found, now)
                self.groups.dealt_with(self.waiting)
            self._acknowledge(len(self.waiting))
        return found

    def _acknowledge(self, count: int) -> None:
        self.acknowledged += [one.offset for one in self.waiting[:count]]
        del self.waiting[:count]

    def entries(self) -> list[tuple[str, str, int]]:
        return [(one.kind.value, one.key[-1], one.count) for _, send in self.told for one in send.entries]


def test_what_happens_within_the_wait_is_one_message() -> None:
    desk = Desk()
    assert desk.offer(0, failed(1)) == Hold(30.0, 0)
    assert desk.offer(10, failed(2, "db")) == Hold(30.0, 0)
    assert desk.acknowledged == []
    desk.offer(30)
    assert [(at, len(send.entries)) for at, send in desk.told] == [(30, 2)]
    assert desk.acknowledged == [1, 2]


def test_a_crash_loop_is_told_once_and_again_with_its_count() -> None:
    desk = Desk(NoticeLimits(repeat_interval=600))
    for number in range(90):
        desk.offer(number * 10.0, failed(number + 1, at=number * 10.0))
    assert [at for at, _ in desk.told] == [30.0, 660.0]
    assert desk.entries() == [("failed", "web", 4), ("failed", "web", 67)]
    assert len(desk.acknowledged) == 90 - len(desk.waiting)


def test_an_app_that_ended_is_not_also_unhealthy() -> None:
    for order in ([failed(1), health(2, 1)], [health(1, 1), failed(2)]):
        desk = Desk()
        desk.offer(0, *order)
        desk.offer(30)
        assert desk.entries()[0][:2] == ("failed", "web")
        assert len(desk.entries()) == 1


@pytest.mark.parametrize("code", [0, 9])
@pytest.mark.parametrize("first", ["exit", "health"])
def test_an_end_that_was_wanted_is_no_trouble(code: int, first: str) -> None:
    desk = Desk()
    events = [failed(1, code=code), health(2, 1)] if first == "exit" else [health(1, 1), failed(2, code=code)]
    desk.offer(0, *events)
    desk.offer(60)
    assert desk.told == []
    assert desk.acknowledged == [1, 2]


def test_unhealthy_for_a_moment_is_not_told() -> None:
    desk = Desk()
    desk.offer(0, health(1, 1))
    assert isinstance(desk.offer(10, health(2, 0, at=10.0)), Nothing)
    assert isinstance(desk.offer(500), Nothing)
    assert desk.told == []


def test_resolved_comes_when_an_app_has_done_well_for_a_while() -> None:
    desk = Desk()
    desk.offer(0, failed(1))
    desk.offer(30)
    desk.offer(40, health(2, 0, at=40.0))
    assert isinstance(desk.offer(339), Nothing)
    assert desk.offer(340) == Hold(370.0, 0)
    desk.offer(370)
    assert desk.entries()[-1] == ("resolved", "web", 1)
    assert isinstance(desk.offer(10_000), Nothing)


def test_a_failure_before_the_resolution_ends_it() -> None:
    desk = Desk()
    desk.offer(0, failed(1))
    desk.offer(30)
    desk.offer(40, health(2, 0, at=40.0))
    desk.offer(350)
    desk.offer(355, failed(3, at=355.0))
    desk.offer(1000)
    assert [kind for kind, *_ in desk.entries()] == ["failed"]


def test_a_problem_of_the_bridge_is_told_and_its_end() -> None:
    desk = Desk()
    desk.offer(0, problems=[down()])
    desk.offer(30, problems=[down()])
    desk.offer(100)
    desk.offer(130)
    assert [(at, send.entries[0].kind) for at, send in desk.told] == [
        (30, NoticeKind.PROBLEM),
        (130, NoticeKind.RESOLVED),
    ]


def test_a_problem_that_is_over_before_it_is_told_is_not_told() -> None:
    desk = Desk()
    desk.offer(0, problems=[down()])
    assert isinstance(desk.offer(20), Nothing)
    assert isinstance(desk.offer(60), Nothing)
    desk.offer(70, failed(1))
    assert desk.offer(71) == Hold(100.0, 0)  # its own wait, not that of the problem


def test_quiet_hours_hold_everything_until_their_end() -> None:
    desk = Desk(quiet_until=5000.0)
    desk.offer(0, failed(1), problems=[down()])
    desk.offer(4000, failed(2, "db"), problems=[down()])
    assert desk.told == []
    desk.offer(5000, problems=[down()])
    assert {kind for kind, *_ in desk.entries()} == {"failed", "problem"}
    assert len(desk.told) == 1


def test_the_bound_on_messages_holds_within_any_hour() -> None:
    desk = Desk(NoticeLimits(group_wait=0, per_hour=2))
    for number in range(50):
        desk.offer(number * 10.0, failed(number + 1, f"app-{number}", at=number * 10.0))
    assert len(desk.told) == 2
    desk.offer(3600)
    assert len(desk.told) == 3
    assert len(desk.told[-1][1].entries) == 48
    assert desk.acknowledged == list(range(1, 51))


def test_a_full_batch_does_not_wait_for_its_group() -> None:
    desk = Desk(NoticeLimits(most_events=3))
    assert isinstance(desk.offer(0, *(failed(number, f"app-{number}") for number in range(1, 4))), Send)


def test_a_message_that_was_not_taken_is_due_again_with_all_of_it() -> None:
    groups = Groups(NoticeLimits(group_wait=0))
    batch = [(failed(1), sign_of(failed(1).event, every_exit=False))]
    first = groups.events(batch, 0.0, None)
    assert isinstance(first, Send)
    assert groups.events(batch, 5.0, None) == first


EVENTS = st.lists(
    st.tuples(
        st.floats(0, 400),
        st.sampled_from(["fail", "end", "sick", "well", "start", "tick"]),
        st.sampled_from(["web", "db", "cache"]),
        st.booleans(),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(EVENTS, st.sampled_from([0.0, 30.0]), st.integers(1, 4), st.sampled_from([0.0, 900.0]))
def test_nothing_is_acknowledged_that_was_not_told_or_left_out(
    steps: list[tuple[float, str, str, bool]], group_wait: float, per_hour: int, repeat: float
) -> None:
    desk = Desk(NoticeLimits(group_wait=group_wait, per_hour=per_hour, repeat_interval=repeat, resolve_after=60))
    now, offset, first_failures = 0.0, 0, set()
    for wait, what, app, is_down in steps:
        now += wait
        made: list[Envelope] = []
        if what != "tick":
            offset += 1
            kinds = {
                "fail": failed(offset, app, now),
                "end": failed(offset, app, now, 0),
                "sick": health(offset, 1, app, now),
            }
            kinds |= {
                "well": health(offset, 0, app, now),
                "start": event(offset, "START", app, now, process_uuid="u", pid=1),
            }
            made = [kinds[what]]
        open_before = {one.key[-1] for _, send in desk.told for one in send.entries if one.kind is NoticeKind.FAILED}
        if what == "fail" and app not in open_before:
            first_failures.add(app)
        desk.offer(now, *made, problems=[down()] if is_down else [])
    for _ in range(40):  # all that is waiting goes out in the end, whatever the bounds are
        now += 1000
        desk.offer(now)
    assert desk.waiting == []
    assert desk.acknowledged == list(range(1, offset + 1))
    assert first_failures <= {name for kind, name, _ in desk.entries() if kind == "failed"}
    times = [at for at, _ in desk.told]
    for at in times:
        assert sum(1 for other in times if at <= other < at + 3600) <= per_hour
    assert isinstance(desk.offer(now + 100_000), Nothing)
