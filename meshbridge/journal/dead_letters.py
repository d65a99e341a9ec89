"""Dead letters: events that a sink refused for good, kept with the reason, to be shown, dropped or offered again."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from meshbridge.journal.errors import DamageError
from meshbridge.journal.store import Change, Letter, Store
from meshbridge.journal.tables import COLUMNS, envelope_of
from meshbridge.model.events import Envelope

__all__ = ["DeadLetter", "DeadLetters"]

Value = TypeVar("Value")


class _Ask(Protocol):
    def __call__(self, question: Callable[[Store], Value], otherwise: Value) -> Value: ...


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One of them. ``error`` is what the destination answered last; ``retry``: it waits to be offered again."""

    id: int
    sink: str
    refused_at: float
    reason: str
    error: str
    retry: bool
    envelope: Envelope


class DeadLetters:
    """Belongs to a journal, whose lock guards it and whose thread does the writing."""

    def __init__(self, work: threading.Condition, ask: _Ask) -> None:
        self._lock = self._work = work  # a condition is its lock
        self._ask = ask
        self._new: list[Letter] = []
        self._changes: list[Change] = []
        self._writing = 0  # letters that are being written
        self._counts: dict[str, int] = {}  # on disk

    # --- any thread ----------------------------------------------------------------------------------------------

    def add(self, letter: Letter) -> None:
        with self._lock:
            self._new.append(letter)
            self._work.notify()

    def count(self, sink: str) -> int:
        with self._lock:
            return self._counts.get(sink, 0) + sum(letter[0] == sink for letter in self._new)

    @property
    def waiting(self) -> bool:
        """Whether some are not on disk yet."""
        return bool(self._new or self._writing)

    @property
    def has_work(self) -> bool:
        return bool(self._new or self._changes)

    def find(
        self, sink: str | None = None, *, after: int = 0, limit: int = 100, retry_only: bool = False
    ) -> list[DeadLetter]:
        """Those of a sink, or of all, in the order in which they were refused, behind an id."""
        sql = (
            f"SELECT id, sink, refused_at, reason, error, retry, {COLUMNS} FROM dead_letters "  # noqa: S608 constants
            f"WHERE id > ?{' AND sink = ?' if sink else ''}{' AND retry' if retry_only else ''} ORDER BY id LIMIT ?"
        )
        parameters = (after, sink, limit) if sink else (after, limit)
        nothing: list[tuple[Any, ...]] = []
        found: list[DeadLetter] = []
        for row in self._ask(lambda store: store.ask(sql, parameters), nothing):
            number, of, refused_at, reason, error, retry, *event = row
            try:
                envelope = envelope_of(event)
            except DamageError:
                continue
            found.append(DeadLetter(number, of, refused_at, reason, error, bool(retry), envelope))
        return found

    def retry(self, sink: str | None, ids: Sequence[int], timeout_seconds: float = 10.0) -> int:
        """Marks letters to be offered again by their sink's courier, all of the sink's where no ids are given."""
        return self._change("UPDATE dead_letters SET retry = 1", sink, ids, timeout_seconds)

    def drop(self, sink: str | None, ids: Sequence[int], timeout_seconds: float = 10.0) -> int:
        """Forgets letters, for good; gives how many there were."""
        return self._change("DELETE FROM dead_letters", sink, ids, timeout_seconds)

    def refused_again(self, letter: DeadLetter, refused_at: float, reason: str, error: str) -> None:
        """A letter that was offered again stays one, with the newer answer."""
        self._submit(
            Change(
                "UPDATE dead_letters SET retry = 0, refused_at = ?, reason = ?, error = ? WHERE id = ?",
                (refused_at, reason, error, letter.id),
            )
        )

    def delivered(self, letters: Sequence[DeadLetter]) -> None:
        """Letters that were offered again and taken: they are no more."""
        for letter in letters:
            self._submit(Change("DELETE FROM dead_letters WHERE id = ?", (letter.id,)))

    def _change(self, sql: str, sink: str | None, ids: Sequence[int], timeout_seconds: float) -> int:
        """Gives how many were changed.

        Raises:
            TimeoutError: the disk cannot be written now; it is done as soon as it can.
            UnicodeEncodeError: no sink can be called so.

        """
        # What SQLite would refuse must fail here: the journal's thread would take it for a fault, and try it again.
        if sink is not None:
            sink.encode()
        places = " AND id IN (SELECT value FROM json_each(?))" if ids else ""
        parameters = (sink, sink, json.dumps(list(ids))) if ids else (sink, sink)
        change = Change(f"{sql} WHERE (? IS NULL OR sink = ?){places}", parameters)
        self._submit(change)
        if not change.done.wait(timeout_seconds):
            raise TimeoutError("the journal's disk cannot be written now; the change is made as soon as it can")
        return change.rows

    def _submit(self, change: Change) -> None:
        with self._lock:
            self._changes.append(change)
            self._work.notify()

    # --- the journal's thread ------------------------------------------------------------------------------------

    def use(self, counts: Mapping[str, int]) -> None:
        """What the database has. With the lock held."""
        self._counts = dict(counts)

    def take(self) -> tuple[list[Letter], list[Change]]:
        """What is to be written. With the lock held."""
        letters, changes = self._new, self._changes
        self._new, self._changes = [], []
        self._writing = len(letters)
        for letter in letters:
            self._counts[letter[0]] = self._counts.get(letter[0], 0) + 1
        return letters, changes

    def put_back(self, letters: list[Letter], changes: list[Change]) -> None:
        """It could not be written. With the lock held."""
        for letter in letters:
            self._counts[letter[0]] -= 1
        self._new = letters + self._new
        self._changes = changes + self._changes
        self._writing = 0

    def written(self) -> None:
        """What was taken is on disk. With the lock held."""
        self._writing = 0

    def announce(self, changes: Sequence[Change], counts: Mapping[str, int]) -> None:
        """Tells those who wait for changes that they are on disk, and what is there now."""
        with self._lock:
            self._counts = dict(counts)
        for change in changes:
            change.done.set()
