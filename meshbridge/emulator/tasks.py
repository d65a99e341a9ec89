"""Work handed to a running process (docs/protocol.md: ``run_task``, ``task_fetch``, ``task_return``)."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

MOST_WAITING = 512


class TaskCancelled(Exception):  # noqa: N818 an outcome
    """The task was cancelled, or its app went away."""


@dataclass(slots=True, eq=False)
class _Task:
    payload: bytes
    result: "asyncio.Future[bytes]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class TaskQueue:
    """The tasks of one app: one at a time with its process, the others wait.

    ``task_id`` counts them, and ``status`` is what the app JSON shows: empty until a process has asked for work, then
    ``idle`` or ``busy``.
    """

    def __init__(self) -> None:
        self.task_id = 0
        self.status = ""
        self._waiting: deque[_Task] = deque()
        self._active: _Task | None = None
        self._fetcher: asyncio.Future[bytes] | None = None

    @property
    def full(self) -> bool:
        """Whether no more can wait."""
        return len(self._waiting) >= MOST_WAITING

    async def run(self, payload: bytes) -> bytes:
        """Gives ``payload`` to the process and waits for what it returns.

        Raises:
            TaskCancelled: by :meth:`cancel`, or the app is gone.

        """
        task = _Task(payload)
        self._waiting.append(task)
        self._hand_over()
        try:
            return await task.result
        finally:
            if task in self._waiting:
                self._waiting.remove(task)
            if self._active is task:
                self._finish()

    async def fetch(self) -> bytes:
        """What the process is to work on, once there is something.

        Raises:
            TaskCancelled: the process has ended, or asked again meanwhile.

        """
        self._drop_fetcher()
        fetcher: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._fetcher = fetcher
        if self._active is None:
            self.status = "idle"
            self._hand_over()
        else:  # the answer with its payload was lost on the way: the process asks again
            fetcher.set_result(self._active.payload)
        try:
            return await fetcher
        finally:
            if self._fetcher is fetcher:
                self._fetcher = None

    def give_back(self, result: bytes) -> bool:
        """The process's answer to the present task; False where there is none."""
        if self._active is None or self._active.result.done():
            return False
        self._active.result.set_result(result)
        self._finish()
        return True

    def cancel(self) -> bool:
        """Cancels the task that the process has fetched, but none that waits; False where there is none."""
        task = self._active
        if task is None:
            return False
        if not task.result.done():
            task.result.set_exception(TaskCancelled)
        return True

    def new_process(self) -> None:
        self.status = ""
        self._drop_fetcher()

    def process_ended(self) -> None:
        """The task that it worked on is handed to its successor."""
        self.status = ""
        self._drop_fetcher()
        if self._active is not None:
            self._waiting.appendleft(self._active)
            self._active = None

    def close(self) -> None:
        self._drop_fetcher()
        for task in [*self._waiting, *([self._active] if self._active else [])]:
            if not task.result.done():
                task.result.set_exception(TaskCancelled)

    def _hand_over(self) -> None:
        if self._active is not None or self._fetcher is None or not self._waiting:
            return
        self._active = self._waiting.popleft()
        self.task_id += 1
        self.status = "busy"
        fetcher, self._fetcher = self._fetcher, None
        if not fetcher.done():
            fetcher.set_result(self._active.payload)

    def _finish(self) -> None:
        self._active = None
        self.status = "idle" if self.status else ""

    def _drop_fetcher(self) -> None:
        if self._fetcher is not None and not self._fetcher.done():
            self._fetcher.set_exception(TaskCancelled)
        self._fetcher = None
