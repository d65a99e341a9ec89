"""The accepted commands of one daemon, and which of them may be carried out now."""

import threading
from collections import deque
from dataclasses import dataclass

from meshbridge.commands.parse import Command
from meshbridge.sinks.commands import CommandMessage

__all__ = ["Job", "Lanes"]


@dataclass(slots=True)
class Job:
    daemon: str
    message: CommandMessage
    command: Command
    place: str  # the app, as a level of the topic
    key: str
    accepted_at: float  # monotonic seconds
    has_begun: bool = False  # from then on it may have run


class Lanes:
    """The accepted commands of one daemon: a lane for each app. All is called with the desk's lock held."""

    def __init__(self, lock: threading.Lock) -> None:
        self.accepted = 0
        self.workers = 0
        self._idle = 0  # workers that wait
        self._lanes: dict[str, deque[Job]] = {}
        self._ready: deque[str] = deque()  # apps with a command that no worker has taken
        self._changed = threading.Condition(lock)
        self._ended = False

    def add(self, job: Job) -> None:
        self.accepted += 1
        lane = self._lanes.setdefault(job.place, deque())
        lane.append(job)
        if len(lane) == 1:
            self._offer(job.place)

    def _offer(self, place: str) -> None:
        self._ready.append(place)
        self._changed.notify()

    def wants_worker(self, most: int) -> bool:
        return len(self._ready) > self._idle and self.workers < most

    def take(self, linger_seconds: float) -> Job | None:
        """The first command of an app that has none under way; it stays at the head of its lane until it is done.

        None: the desk has ended, or there was nothing for so long.
        """
        self._idle += 1
        self._changed.wait_for(lambda: self._ready or self._ended, linger_seconds)
        self._idle -= 1
        if self._ended or not self._ready:
            return None
        return self._lanes[self._ready.popleft()][0]

    def done(self, job: Job) -> None:
        lane = self._lanes[job.place]
        lane.popleft()
        self.accepted -= 1
        if lane:
            self._offer(job.place)
        else:
            del self._lanes[job.place]

    def end(self) -> None:
        self._ended = True
        self._changed.notify_all()
