"""History: what its table costs each append, and how long the timeline of 1,000 apps takes.

Appends: the same events into two journals, one of which writes no history; CPU time of the process, in turns. Timeline:
a journal of 1,000,000 events of 1,000 apps over a week.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from meshbridge import telemetry
from meshbridge.journal import Journal, JournalOptions, history_table
from meshbridge.journal.history import TimelineQuery
from meshbridge.journal.store import DATABASE
from meshbridge.model.events import Event, decode_push
from meshbridge.model.timeline import Window

_APPS = 1000
_WEEK = 7 * 86_400.0
_GROUP = 1000


def synthetic(count: int, changes: float, end: float, seed: int = 1) -> Iterator[Event]:
    """Events of 1,000 apps over a week, in order; ``changes``: the share of those that are not output."""
    chance = random.Random(seed)
    running: dict[str, int] = {}
    processes: dict[str, str] = {}
    for sequence in range(1, count + 1):
        at = end - _WEEK + _WEEK * sequence / count
        app = f"app-{chance.randrange(_APPS):04}"
        if app not in running:
            kind, data = "START", {"pid": sequence, "process_uuid": f"p{sequence}"}
            running[app] = sequence
        elif chance.random() < changes:
            if chance.random() < 0.2:
                kind, data = "HEALTH", {"health": chance.randrange(2)}
            else:
                pid = running.pop(app)
                kind, data = "EXIT", {"pid": pid, "exit_code": chance.choice((0, 0, 1, 137)), "last_error": ""}
        else:
            kind, data = "STDOUT", {"finished": False, "output": "x" * 80, "position": 80 * sequence}
        body = {"app_name": app, "data": data, "event_type": kind, "sequence": sequence, "timestamp": int(at)}
        yield decode_push("node-a", "1", json.dumps(body).encode(), at, processes)


def cpu_seconds_of_appends(events: Sequence[Event], directory: Path, *, history: bool) -> float:
    journal = Journal(JournalOptions(path=directory, sync="none"))  # type: ignore[arg-type]
    before = history_table.add_events
    if not history:
        history_table.add_events = lambda *_: None
    try:
        journal.open()
        began = time.process_time()
        for start in range(0, len(events), _GROUP):
            journal.append(events[start : start + _GROUP])
        return time.process_time() - began
    finally:
        journal.close()
        history_table.add_events = before


def appends(count: int, rounds: int, changes: float) -> dict[str, float]:
    events = list(synthetic(count, changes, time.time()))
    ratios = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            spent = {
                history: cpu_seconds_of_appends(events, Path(place) / str(history), history=history)
                for history in ((False, True) if number % 2 else (True, False))
            }
        ratios.append(spent[True] / spent[False])
    share = sum(event.type != 3 for event in events) / len(events)
    return {"share_of_changes": round(share, 3), "cpu_ratio": round(statistics.median(ratios), 3)}


def timeline(count: int, changes: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as place:
        now = time.time()
        journal = Journal(JournalOptions(path=Path(place), sync="none"))  # type: ignore[arg-type]
        journal.open()
        events = synthetic(count, changes, now)
        while group := list(itertools.islice(events, _GROUP)):
            journal.append(group)
        journal.prune()
        journal.flush(60)
        fresh = itertools.count(1)

        def cold(query: TimelineQuery) -> None:
            """A question that was not asked before."""
            journal.history.timeline(dataclasses.replace(query, limit=query.limit + next(fresh)))

        found = {
            name: _median_seconds(functools.partial(cold, query))
            for name, query in {
                "week_1000_apps": TimelineQuery(Window(now - _WEEK, now, _WEEK / 20), limit=_APPS),
                "week_100_apps": TimelineQuery(Window(now - _WEEK, now, _WEEK / 200), limit=100),
                "hour_1000_apps": TimelineQuery(Window(now - 3600, now, 180), limit=_APPS),
                "week_1_app": TimelineQuery(Window(now - _WEEK, now), apps=("app-0007",)),
            }.items()
        }
        found["restarts"] = _median_seconds(lambda: journal.history.restarts(now - 3600))
        journal.close()
        with contextlib.closing(sqlite3.connect(Path(place) / DATABASE)) as database:
            (rows,) = database.execute("SELECT count(*) FROM app_history").fetchone()
        return {"rows": rows, **found}


def _median_seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return round(statistics.median(taken), 3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--appended", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--changes", type=float, nargs="*", default=[0.03, 0.1, 1.0], help="shares of what is no output"
    )
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    given = parser.parse_args()
    if given.quick:
        given.events, given.appended, given.rounds, given.changes = 20_000, 5_000, 1, [0.1]
    telemetry.configure_logging("error")
    figures = {}
    for changes in given.changes:
        found = {"appends": appends(given.appended, given.rounds, changes), "timeline": timeline(given.events, changes)}
        print(f"{changes:.0%} of the events are no output: {found}", flush=True)
        figures[f"{changes:g}"] = found
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
