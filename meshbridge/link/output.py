"""Output that no event brought: which bytes of which process are missing, and what fills them. No clock, no I/O.

Positions count bytes of the daemon's file, while the text of an event has had its invalid UTF-8 replaced
(docs/protocol.md, 'STDOUT'): where a text holds a replacement its end is not known, and the next
event's position tells it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from meshbridge.link.app_state import AppState

__all__ = ["REPLACEMENT", "Missing", "Outputs", "undecoded_length"]

_CHUNK_BYTES = 256 * 1024  # of one backfilled event, as the daemon's own (docs/protocol.md, 'STDOUT')
REPLACEMENT = "\ufffd"
_MOST_MISSING = 20_000  # stretches: one for each app after a reconnect, and more apps than a daemon runs
_MOST_REPLACEMENTS = 256  # in a text whose bytes are still looked for in the file


@dataclass(slots=True, eq=False)
class Missing:
    """Bytes ``start`` to ``end`` of a process's output; ``end`` None: up to what is there, or to the next live event.

    The process is known by when it was started, and how often before; ``process_uuid`` where START was seen.
    ``after`` is the text that stands at ``start`` and was delivered: what is missing begins behind its bytes.
    ``exact``: events brought it, with bytes replaced; what is missing is the bytes.
    """

    app: str
    started_at: int | None
    starts: int | None
    process_uuid: str | None
    start: int
    end: int | None = None
    after: str = ""
    exact: bool = False
    grown: bool = False  # more was left out since it was asked for


@dataclass(slots=True)
class Outputs:
    """What is missing of the output of a daemon's apps. Belongs to :class:`~meshbridge.link.reconcile.Apps`.

    ``exact``: the bytes behind a text in which some were replaced are missing, too.
    """

    exact: bool = False
    due: list[Missing] = field(default_factory=list)
    pending: list[Missing] = field(default_factory=list)  # all that is not filled yet, asked for or not
    given_up: list[Missing] = field(default_factory=list)  # for want of room, since the owner looked
    changed: bool = False  # whether ``pending`` did, since the owner looked
    _open: dict[str, Missing] = field(default_factory=dict)  # app -> what is missing up to its next live event
    _unsure: dict[str, Missing] = field(default_factory=dict)  # app -> the same, until the app was compared
    _texts: dict[str, str] = field(default_factory=dict)  # app -> its last text, where that has an unknown end

    # --- live events ---------------------------------------------------------------------------------------------

    def printed(self, state: AppState, position: int, end: int | None, text: str) -> None:
        """A live STDOUT event of the app; ``end`` None where its text holds a replacement."""
        waiting = self._open.pop(state.app, None)
        replaced = self.exact and end is None
        if waiting is not None and waiting.exact and replaced and waiting in self.due:
            self._open[state.app] = waiting  # not asked yet: one request for both
            replaced = False
        elif waiting is not None:
            waiting.end = max(waiting.start, position)
            self.changed = True
        elif state.output_end is not None and position > state.output_end:
            self._ask_for(self._missing(state, state.output_end, position))
        state.output_position, state.output_end = position, end
        if end is None:
            self._texts[state.app] = text
        else:
            self._texts.pop(state.app, None)
        if replaced:
            self._open_ended(replace(self._missing(state, position), exact=True))

    def left_out(self, state: AppState) -> bool:
        """A live STDOUT event of the app is not told. Whether it can be: its place must be known, to fetch it later."""
        if state.output_position is None:
            return False
        waiting = self._open.get(state.app)
        if waiting is None:
            self._open_ended(self._after_last(state))
        elif waiting not in self.due:
            waiting.grown = True
        return True

    def started(self, state: AppState) -> None:
        """A process of the app was seen to start: nothing of its output is missing yet."""
        self._forget(state.app)
        state.output_position, state.output_end = 0, 0

    def removed(self, app: str) -> None:
        """Output goes with its app."""
        self._forget(app)

    # --- after an interruption -----------------------------------------------------------------------------------

    def interrupted(self, state: AppState) -> None:
        """Events of the app were not seen for a while: what its process printed since is missing.

        To be called before the next live event, so that this one says where it ends.
        """
        if not state.running or state.output_position is None:
            return
        if state.app in self._open:
            self._unsure.setdefault(state.app, self._open[state.app])
            return
        self._unsure[state.app] = missing = self._after_last(state)
        self._open_ended(missing)

    def _after_last(self, state: AppState) -> Missing:
        """What comes behind the last text."""
        if state.output_end is not None:
            return self._missing(state, state.output_end)
        return self._missing(state, state.output_position or 0, after=self._texts.get(state.app, ""))

    def compared(self, app: str) -> None:
        """The process is still the one that was known."""
        self._unsure.pop(app, None)

    def replaced(self, state: AppState) -> None:
        """Another process runs than the one that was known, and its start was not seen: ``state`` is the new one's.

        What is missing of the old one ends with its file; a live event since then was the new one's.
        """
        old = self._unsure.pop(state.app, None)
        live = state.output_position if old is not None and self._open.pop(state.app, None) is None else None
        if old is not None:
            old.end = None
        self._texts.pop(state.app, None)
        missing = self._missing(state, 0, live)
        if live is None:
            state.output_position, state.output_end = 0, 0
            self._open_ended(missing)
        else:
            self._ask_for(missing)

    def take_due(self) -> list[Missing]:
        """What is to be asked for now."""
        due, self.due = self.due, []
        return due

    def _open_ended(self, missing: Missing) -> None:
        self._open[missing.app] = missing
        self._ask_for(missing)

    def _ask_for(self, missing: Missing) -> None:
        self.changed = True
        if len(self.pending) >= _MOST_MISSING:
            self._open.pop(missing.app, None)
            self.given_up.append(missing)
            return
        self.due.append(missing)
        self.pending.append(missing)

    def take_given_up(self) -> list[Missing]:
        """What will not be asked for: there is too much."""
        given_up, self.given_up = self.given_up, []
        return given_up

    def load(self, pending: list[Missing]) -> None:
        """What was missing when the bridge ended."""
        self.due, self.pending = list(pending), list(pending)
        self._open = {missing.app: missing for missing in pending if missing.end is None}

    def ask_again(self, missing: Iterable[Missing]) -> None:
        """The daemon could not be asked."""
        self.due += missing

    def _settle(self, missing: Missing) -> None:
        self.pending.remove(missing)
        self.changed = True

    def _forget(self, app: str) -> None:
        self._open.pop(app, None)
        self._unsure.pop(app, None)
        self._texts.pop(app, None)

    @staticmethod
    def _missing(state: AppState, start: int, end: int | None = None, after: str = "") -> Missing:
        return Missing(state.app, state.started_at, state.starts, state.process_uuid, start, end, after)

    # --- what came -----------------------------------------------------------------------------------------------

    def fill(self, missing: Missing, data: bytes, state: AppState | None) -> Iterator[tuple[int, bytes]]:
        """(position, bytes) of the events that fill it, from the file's bytes at ``missing.start``.

        ``state`` is the app's, None where it is gone. What a live event has brought meanwhile is cut off.
        """
        still_open = self._open.get(missing.app) is missing
        self._settle(missing)
        start, skip = missing.start, undecoded_length(missing.after, data) if missing.after else 0
        end = len(data) if missing.end is None else min(len(data), missing.end - start)
        if still_open:
            del self._open[missing.app]
            if state is not None:
                state.output_position = state.output_end = start + max(skip, end)
                if missing.grown:
                    self._open_ended(self._after_last(state))
        while skip < end:
            cut = _boundary(data, skip, min(end, skip + _CHUNK_BYTES), end)
            yield start + skip, data[skip:cut]
            skip = cut

    def give_up(self, missing: Missing) -> None:
        """It can't be had: the next live event begins again."""
        self._settle(missing)
        if self._open.get(missing.app) is missing:
            del self._open[missing.app]


def undecoded_length(text: str, data: bytes) -> int:
    """How many bytes at the front of ``data`` were shown as ``text``; 0 where that can't be known.

    Each replacement stands for one to three bytes, so there are few lengths to try.
    """
    replaced = text.count(REPLACEMENT)
    if replaced > _MOST_REPLACEMENTS:
        return 0
    encoded = len(text.encode())
    for length in range(encoded - 2 * replaced, encoded + 1):
        if length <= len(data) and data[:length].decode("utf-8", "replace") == text:
            return length
    return 0


def _boundary(data: bytes, start: int, cut: int, end: int) -> int:
    """A place at or before ``cut`` where no character is cut in two."""
    if cut >= end:
        return end
    place = cut
    while place > start and data[place] & 0xC0 == 0x80:  # noqa: PLR2004 a continuation byte of UTF-8
        place -= 1
    return place if place > start else cut
