import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from meshbridge.emulator.tasks import TaskCancelled, TaskQueue


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 10))


async def started(work: Coroutine[Any, Any, bytes]) -> "asyncio.Task[bytes]":
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    return task


def test_work_meets_a_process_in_either_order() -> None:
    async def scenario() -> None:
        queue = TaskQueue()
        for fetch_first in (True, False):
            first = await started(queue.fetch() if fetch_first else queue.run(b"x"))
            second = await started(queue.run(b"x") if fetch_first else queue.fetch())
            fetched, result = (first, second) if fetch_first else (second, first)
            assert await fetched == b"x"
            assert queue.status == "busy"
            assert queue.give_back(b"done")
            assert await result == b"done"
            assert not queue.give_back(b"again")
        assert (queue.task_id, queue.status) == (2, "idle")

    run(scenario())


def test_a_process_that_asks_again_gets_the_task_it_has_not_answered() -> None:
    async def scenario() -> None:
        queue = TaskQueue()
        result = await started(queue.run(b"x"))
        assert [await queue.fetch(), await queue.fetch()] == [b"x", b"x"]
        queue.give_back(b"y")
        assert (await result, queue.task_id) == (b"y", 1)

    run(scenario())


def test_a_process_that_hangs_up_takes_no_task_with_it() -> None:
    async def scenario() -> None:
        queue = TaskQueue()
        gone = await started(queue.fetch())
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        result = await started(queue.run(b"x"))
        assert await queue.fetch() == b"x"
        queue.give_back(b"y")
        assert await result == b"y"

    run(scenario())


def test_a_task_passes_to_the_next_process_and_its_waiting_predecessor_is_sent_away() -> None:
    async def scenario() -> None:
        queue = TaskQueue()
        result = await started(queue.run(b"x"))
        await queue.fetch()
        queue.process_ended()
        queue.new_process()
        assert await queue.fetch() == b"x"
        queue.give_back(b"y")
        assert await result == b"y"
        waiting = await started(queue.fetch())
        queue.process_ended()
        with pytest.raises(TaskCancelled):
            await waiting

    run(scenario())


def test_cancelling_ends_the_task_that_was_fetched_and_none_that_waits() -> None:
    async def scenario() -> None:
        queue = TaskQueue()
        assert not queue.cancel()
        first, second = await started(queue.run(b"1")), await started(queue.run(b"2"))
        await queue.fetch()
        assert queue.cancel()
        with pytest.raises(TaskCancelled):
            await first
        assert not queue.cancel()
        queue.close()
        with pytest.raises(TaskCancelled):
            await second

    run(scenario())


def test_closing_ends_everything() -> None:
    async def scenario() -> None:
        busy, idle = TaskQueue(), TaskQueue()
        active, waiting = await started(busy.run(b"1")), await started(busy.run(b"2"))
        await busy.fetch()
        fetcher = await started(idle.fetch())
        for queue in (busy, idle):
            queue.close()
        for task in (active, waiting, fetcher):
            with pytest.raises(TaskCancelled):
                await task

    run(scenario())
