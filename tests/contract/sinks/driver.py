"""What the courier does, as the contract's table has it, without its clock: the other side of every kit test."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from meshbridge.model.events import Envelope, Event
from meshbridge.sinks.base import NotConnected, Refused, Sink, SinkError
from tests.contract.sinks.far_end import SECRETS, FarEnd
from tests.support import returns_in_time

CALL_SECONDS = 3.0
MOST_ATTEMPTS = 200


@dataclass
class Course:
    """How a delivery went."""

    dead: list[Event] = field(default_factory=list)
    errors: list[SinkError] = field(default_factory=list)


def write(sink: Sink, batch: Sequence[Envelope], seconds: float = CALL_SECONDS) -> None:
    """One call, held to its time."""
    with returns_in_time(seconds):
        try:
            sink.write(batch, seconds)
        except SinkError as error:
            _hold_to_contract(error, len(batch))
            raise


def _hold_to_contract(error: SinkError, offered: int) -> None:
    assert 0 <= error.acknowledged <= offered
    if isinstance(error, Refused):
        assert error.acknowledged < offered, "a refusal is of an event that is not acknowledged"
    assert_no_secret(error)


def assert_no_secret(error: BaseException) -> None:
    for secret in SECRETS:
        assert secret not in f"{error} {error!r}"


def deliver(sink: Sink, far: FarEnd, batch: Sequence[Envelope], seconds: float = CALL_SECONDS) -> Course:
    """Offers until all is acknowledged or dead, and holds every acknowledgement to what has arrived."""
    course = Course()
    rest, offer, connected = list(batch), len(batch), True
    for _ in range(MOST_ATTEMPTS):
        if not rest:
            return course
        offered = rest[:offer]
        try:
            if not connected:
                sink.connect(seconds)
                connected = True
            write(sink, offered, seconds)
        except Refused as refused:
            course.errors.append(refused)
            acknowledged = refused.acknowledged
            if len(offered) == 1:
                course.dead.append(rest.pop(0).event)
                offer = len(rest)
            elif not acknowledged:
                offer = len(offered) // 2
        except SinkError as error:
            course.errors.append(error)
            acknowledged = error.acknowledged
            connected = connected and not isinstance(error, NotConnected)
        else:
            acknowledged = len(offered)
        assert_arrived(far, rest[:acknowledged] if rest else [])
        del rest[:acknowledged]
        offer = offer - acknowledged if offer > acknowledged else len(rest)
    raise AssertionError(f"{len(rest)} events are left after {MOST_ATTEMPTS} offers: {course.errors[-3:]}")


def assert_arrived(far: FarEnd, acknowledged: Sequence[Envelope]) -> None:
    missing = {envelope.event.id for envelope in acknowledged} - set(far.arrived())
    assert not missing, f"acknowledged, and not there: {sorted(missing)}"


def assert_complete(far: FarEnd, batch: Sequence[Envelope], dead: Sequence[Event] = ()) -> None:
    """The oracle: what was written against what arrived, ids and order."""
    arrived = far.arrived()
    events = {envelope.event.id: envelope.event for envelope in batch}
    assert set(arrived) == set(events) - {event.id for event in dead}
    for app in {event.app for event in events.values()}:
        of_app = [one for one in arrived if events[one].app == app]
        written = [envelope.event.id for envelope in batch if envelope.event.id in of_app and envelope.event.app == app]
        last = list(dict.fromkeys(reversed(of_app)))[::-1]
        assert last == written, f"last arrivals of {app}"
        if far.keeps_first_order:
            assert list(dict.fromkeys(of_app)) == written, f"first arrivals of {app}"
