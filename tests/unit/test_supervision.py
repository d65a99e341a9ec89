"""A thread that fails is started again, is counted, and is missing until then."""

import threading

from meshbridge import telemetry
from meshbridge.system.supervision import SupervisedThread
from tests.support import wait_for


def failures(thread: str) -> float:
    return telemetry.REGISTRY.get_sample_value("meshbridge_thread_failures_total", {"thread": thread}) or 0.0


def test_a_thread_that_fails_is_started_again_until_it_returns() -> None:
    stopping = threading.Event()
    runs: list[int] = []
    ended = threading.Event()

    def target() -> None:
        runs.append(len(runs))
        if len(runs) < 4:
            raise TypeError("'NoneType' object is not subscriptable")
        ended.set()

    before = failures("t-again")
    thread = SupervisedThread("t-again", target, stopping, first_wait_seconds=0.001)
    thread.start()
    assert ended.wait(30)
    assert thread.join(30)
    assert len(runs) == 4
    assert failures("t-again") == before + 3


def test_a_thread_is_missing_while_it_waits_and_not_once_it_is_to_stop() -> None:
    stopping, go = threading.Event(), threading.Event()

    def target() -> None:
        go.wait(30)
        raise ValueError("no")

    thread = SupervisedThread("t-waits", target, stopping, first_wait_seconds=60)
    assert not thread.missing, "it was not started yet"
    thread.start()
    assert thread.running
    assert not thread.missing
    go.set()
    wait_for(lambda: thread.missing, "the failure")
    stopping.set()
    assert thread.join(30)
    assert not thread.missing
    assert not thread.running
