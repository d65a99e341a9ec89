"""Deadlines, hung calls and shared runs."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import pytest

from meshbridge.exporter import gathering as gathering_module
from meshbridge.exporter.collectors import Collector, Deadline
from meshbridge.exporter.exposition import Family
from meshbridge.exporter.gathering import CollectorRun, Gathering, Task
from tests.support import returns_in_time, wait_for


class Fixed:
    """Answers what the test sets."""

    def __init__(self, collect: Callable[[], list[Family]]) -> None:
        self.dropped = {"malformed": 1}
        self._collect = collect

    def collect(self, _deadline: Deadline) -> list[Family]:
        return self._collect()


def task(collect: Callable[[], list[Family]], daemon: str = "d", collector: str = "apps") -> Task:
    def make() -> Collector:
        return Fixed(collect)

    return Task(daemon, collector, make)


def hang(release: threading.Event) -> list[Family]:
    release.wait(30)
    return []


def broken() -> Any:
    raise ConnectionError("refused")


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Ends calls that hang."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def gathering(release: threading.Event) -> Iterator[Gathering]:
    made = Gathering()
    yield made
    release.set()
    made.close()


def collectors() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "collector"]


def test_outcomes_come_in_the_order_of_the_tasks(gathering: Gathering) -> None:
    family = Family("x", "gauge")
    good, bad = gathering.gather([task(lambda: [family], "a"), task(broken, "b")], Deadline.after(5))
    assert (good.daemon, good.success, good.families, good.dropped) == ("a", True, [family], {"malformed": 1})
    assert (bad.daemon, bad.success, bad.families, bad.error) == ("b", False, [], "ConnectionError: refused")


def test_a_task_that_hangs_costs_only_itself(gathering: Gathering, release: threading.Event) -> None:
    tasks = [task(lambda: hang(release), "hung"), task(list, "fine")]
    with returns_in_time(5):
        hung, fine = gathering.gather(tasks, Deadline.after(0.2))
    assert fine.success
    assert not hung.success
    assert hung.duration_seconds >= 0.2


def test_scrape_after_scrape_a_hung_task_keeps_one_thread_and_fails_at_once(
    gathering: Gathering, release: threading.Event
) -> None:
    calls = []

    def counted() -> list[Family]:
        calls.append(1)
        return hang(release)

    gathering.gather([task(counted)], Deadline.after(0.05))
    threads = len(collectors())
    with returns_in_time(5):
        outcomes = [gathering.gather([task(counted)], Deadline.after(30))[0] for _ in range(5)]
    assert {outcome.error for outcome in outcomes} == {"the call of an earlier scrape still hangs"}
    assert len(collectors()) == threads
    assert calls == [1]


def test_a_task_that_came_back_is_run_again(gathering: Gathering, release: threading.Event) -> None:
    gathering.gather([task(lambda: hang(release))], Deadline.after(0.05))
    release.set()
    limit = time.monotonic() + 10
    while not gathering.gather([task(list)], Deadline.after(1))[0].success:
        assert time.monotonic() < limit


def test_concurrent_scrapes_share_one_run(gathering: Gathering, release: threading.Event) -> None:
    calls = []
    begun = threading.Event()

    def collect() -> list[Family]:
        calls.append(1)
        begun.set()
        release.wait(30)
        return [Family("x", "gauge")]

    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(gathering.gather, [task(collect)], Deadline.after(30))
        assert begun.wait(10)
        others = [pool.submit(gathering.gather, [task(collect)], Deadline.after(30)) for _ in range(3)]
        impatient = pool.submit(gathering.gather, [task(collect)], Deadline.after(0.1))
        assert not impatient.result(10)[0].success
        release.set()
        results: list[list[CollectorRun]] = [future.result(10) for future in (first, *others)]
    assert all(outcomes[0].success for outcomes in results)
    assert calls == [1]


def test_tasks_run_at_once(gathering: Gathering) -> None:
    together = threading.Barrier(6)

    def meet() -> list[Family]:
        together.wait(10)
        return []

    tasks = [task(meet, f"d{n}", name) for n in range(2) for name in ("daemon", "host", "apps")]
    assert all(outcome.success for outcome in gathering.gather(tasks, Deadline.after(20)))


def test_close_ends_every_wait(gathering: Gathering, release: threading.Event) -> None:
    begun = threading.Event()

    def begin() -> list[Family]:
        begun.set()
        return hang(release)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gathering.gather, [task(begin)], Deadline.after(30))
        assert begun.wait(10)
        gathering.close()
        assert not waiting.result(10)[0].success
    assert not gathering.gather([task(begin, "other")], Deadline.after(30))[0].success


def test_a_system_without_threads_to_spare_costs_one_scrape_and_not_the_next(gathering: Gathering) -> None:
    with patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
        (outcome,) = gathering.gather([task(list)], Deadline.after(10))
    assert (outcome.success, outcome.error) == (False, "can't start new thread")
    assert gathering.gather([task(list)], Deadline.after(10))[0].success


def test_no_tasks_no_waiting(gathering: Gathering) -> None:
    assert gathering.gather([], Deadline.after(30)) == []


def test_threads_are_kept_for_the_next_scrape_and_ended_at_the_close() -> None:
    gathering = Gathering()
    used: list[threading.Thread] = []
    together = threading.Barrier(3)

    def meet() -> list[Family]:
        together.wait(10)
        used.append(threading.current_thread())
        return []

    for _ in range(10):
        gathering.gather([task(meet, f"d{n}") for n in range(3)], Deadline.after(20))
        wait_for(lambda: gathering._workers._free == len(set(used)), "threads to be free")
    assert len(used) == 30
    assert len(set(used)) == 3
    gathering.close()
    for thread in set(used):
        thread.join(10)
        assert not thread.is_alive()


def test_threads_that_nobody_needs_end_by_themselves() -> None:
    with patch.object(gathering_module, "_KEPT_SECONDS", 0.01):
        used: list[threading.Thread] = []

        def note() -> list[Family]:
            used.append(threading.current_thread())
            return []

        gathering = Gathering()
        assert gathering.gather([task(note)], Deadline.after(10))[0].success
        used[0].join(10)
        assert not used[0].is_alive()
        assert gathering.gather([task(note)], Deadline.after(10))[0].success
        gathering.close()


def test_work_that_is_handed_over_as_a_thread_gives_up_is_done() -> None:
    with patch.object(gathering_module, "_KEPT_SECONDS", 0.0001):
        gathering = Gathering()
        assert all(gathering.gather([task(list)], Deadline.after(10))[0].success for _ in range(2000))
        gathering.close()
