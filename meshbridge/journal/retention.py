"""Retention: what goes when the journal holds too much or too old (docs/design.md, 'Keeping')."""

import time
from collections.abc import Callable, Iterator, Mapping

from meshbridge.journal.options import JournalOptions
from meshbridge.journal.store import Change, Deletion, Group, Store
from meshbridge.model.events import EventType

__all__ = ["Deleted", "prune", "steady_now"]

_STEP_EVENTS = 1000  # deleted in one transaction, so that appends wait little
_STEP_PAGES = 256  # given back in one
_LOW_WATER = 0.95  # of max_bytes: so that one prune is not followed by the next at once
_LETTERS_SHARE = 4  # dead letters may fill one part in so many of max_bytes

_STARTED_AT = time.time()
_STARTED = time.monotonic()

Deleted = tuple[Deletion, int, int, dict[str, int]]
"""(what was to go, how many went, up to which offset, how many of them each sink had not had)"""


def prune(
    store: Store, options: JournalOptions, cursors: Callable[[], Mapping[str, int]], last: int
) -> Iterator[Deleted | None]:
    """One small transaction at each step, so that others get their turn between.

    Raises:
        sqlite3.Error: at any step.

    """
    store.check_in_place()
    store.remember_last_offset(last)
    too_old = Deletion("age", outer="received_at < ?", parameters=(steady_now() - options.max_age,))
    yield from _delete(store, too_old, cursors, lambda: _STEP_EVENTS)
    _forget_letters(store, options)
    yield None
    while store.forget_history(steady_now() - options.max_age, options.max_bytes):
        yield None
    if store.size_bytes() > options.max_bytes:
        store.checkpoint()
    if store.size_bytes() > options.max_bytes:
        everywhere = min(cursors().values(), default=last)
        stdout = int(EventType.STDOUT)
        for deletion in (
            Deletion("delivered", outer="offset <= ?", parameters=(everywhere,)),
            Deletion("size", inner=f"type = {stdout}", kind=stdout),
            Deletion("size"),
        ):
            yield from _delete(store, deletion, cursors, lambda: _over(store, options))
    while store.shrink(_STEP_PAGES):
        yield None


def _delete(
    store: Store, deletion: Deletion, cursors: Callable[[], Mapping[str, int]], wanted: Callable[[], int]
) -> Iterator[Deleted]:
    while limit := wanted():
        count, last, missed = store.delete(deletion, limit, cursors())
        if count:
            yield deletion, count, last, missed
        if count < limit:
            return


def _over(store: Store, options: JournalOptions) -> int:
    """About how many events are too many, at most one step's."""
    store.checkpoint()
    size = store.size_bytes()
    excess = size - options.max_bytes * _LOW_WATER
    if excess <= 0:
        return 0
    return min(_STEP_EVENTS, int(excess * store.extent().count / size) + 1)


def _forget_letters(store: Store, options: JournalOptions) -> None:
    """Dead letters go with age as events do, and never push events out."""
    ((count, size),) = store.ask("SELECT count(*), coalesce(sum(length(body)), 0) FROM dead_letters")
    if not count:
        return
    cutoff = steady_now() - options.max_age
    excess = size - options.max_bytes // _LETTERS_SHARE
    surplus = -(-count * excess // size) if excess > 0 else 0
    sql = "DELETE FROM dead_letters WHERE refused_at < ? OR id IN (SELECT id FROM dead_letters ORDER BY id LIMIT ?)"
    store.append(Group(changes=[Change(sql, (cutoff, surplus))]))


def steady_now() -> float:
    """Unix seconds that a step of the wall clock, forward or back, never puts ahead of what has really passed.

    For ages alone: a host that starts in 1970 and is set right later must not find all its events too old.
    """
    return min(time.time(), _STARTED_AT + time.monotonic() - _STARTED)
