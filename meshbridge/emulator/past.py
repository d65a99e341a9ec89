"""Synthetic events of the demo's apps over a day, so that its page has something to show at once.

Each event has ``synthetic`` in its id, each line of output begins with it. Pure: no clock, no I/O.
"""

import random
from collections.abc import Iterator
from typing import Any

import orjson

from meshbridge.model.events import DAEMON_PLACE, Event, EventType

__all__ = ["synthetic_day"]

_DAY_SECONDS = 86_400
_HOUR_SECONDS = 3600
_Told = tuple[float, str, EventType, dict[str, Any], str | None]
"""(when, app, type, data, process)"""


def synthetic_day(daemon: str, end: float) -> list[Event]:
    """Events of the day before ``end``, in order. All processes have ended by then."""
    chance = random.Random(1)  # noqa: S311 a day that is always the same
    begin = end - _DAY_SECONDS
    told = [
        *_talker(begin, end),
        *_crasher(begin, end, chance),
        *_reporter(begin, end, chance),
        *_patient(begin, end),
    ]
    told.sort(key=lambda one: one[0])
    return [_event(daemon, number, one) for number, one in enumerate(told, 1)]


def _event(daemon: str, number: int, told: _Told) -> Event:
    at, app, kind, data, process = told
    body = {"app_name": app, "data": data, "event_type": kind.name, "timestamp": int(at)}
    return Event(
        daemon, "synthetic", None, kind, app, float(int(at)), orjson.dumps(body), process, received_at=at,
        key=f"synthetic/{number}",
    )  # fmt: skip


def _run(app: str, start: float, end: float, code: int, lines: list[str], *, error: str = "") -> Iterator[_Told]:
    """A process from its start to its end, with lines of output spread over its life."""
    pid, process = int(start) % 30_000 + 1000, f"synthetic-{app}-{int(start)}"
    yield start, app, EventType.START, {"pid": pid, "process_uuid": process}, process
    position = 0
    for number, line in enumerate(lines, 1):
        text = f"(synthetic) {line}\n"
        at = start + (end - start) * number / (len(lines) + 1)
        yield at, app, EventType.STDOUT, {"finished": False, "output": text, "position": position}, process
        position += len(text)
    yield end, app, EventType.EXIT, {"exit_code": code, "last_error": error, "pid": pid}, process


def _talker(begin: float, end: float) -> Iterator[_Told]:
    """Runs all day but for a deployment, and a few minutes whose events are missing."""
    middle = begin + 15 * _HOUR_SECONDS
    for start, stop in ((begin + 60, middle), (middle + 90, end - 60)):
        lines = [f"order {number} shipped" for number in range(1, int((stop - start) / 300))]
        yield from _run("talker", start, stop, 0, lines)
    gap = begin + 9 * _HOUR_SECONDS
    yield gap, DAEMON_PLACE, EventType.GAP, {"first": None, "last": None, "missed": None, "reconciled": 0}, None


def _crasher(begin: float, end: float, chance: random.Random) -> Iterator[_Told]:
    """Crashes now and then, and for an hour in the night again and again."""
    at = begin + 120
    while at < end - 900:
        hour = (at - begin) / _HOUR_SECONDS
        lasts = chance.uniform(30, 90) if 4 <= hour < 5 else chance.uniform(1800, 9000)  # noqa: PLR2004 hours of the night
        stop = min(at + lasts, end - 60)
        yield from _run("crasher", at, stop, 3, ["working", "panic: out of ideas"], error="exited with return code: 3")
        at = stop + chance.uniform(2, 20)


def _reporter(begin: float, end: float, chance: random.Random) -> Iterator[_Told]:
    """Each ten minutes, and fails one time in twenty."""
    at = begin + 300
    while at < end - 120:
        code = int(chance.random() < 0.05)  # noqa: PLR2004 one in twenty
        yield from _run("reporter", at, at + chance.uniform(5, 40), code, ["report written" if not code else "no data"])
        at += 600


def _patient(begin: float, end: float) -> Iterator[_Told]:
    """Is unhealthy for a while, twice."""
    yield from _run("patient", begin + 30, end - 30, 9, ["ready"])
    for hour, minutes in ((6, 25), (18, 70)):
        at = begin + hour * _HOUR_SECONDS
        yield at, "patient", EventType.HEALTH, {"health": 1, "previous_health": 0}, None
        yield at + minutes * 60, "patient", EventType.HEALTH, {"health": 0, "previous_health": 1}, None
