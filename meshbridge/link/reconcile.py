"""The apps of one daemon as they are known, and what the daemon's list says that no event has said.

Pure: no clock, no I/O, no locks; the link guards it with one lock, so that an event and a comparison never interleave.

A comparison goes: :meth:`Apps.mark`, ask the daemon, wait until every event that it sent before has come, then
:meth:`Apps.compare` with the answer and the mark. An app that an event has touched since the mark is left alone: the
answer carries no sequence, and must never undo what an event has said. It is named in ``look_again``, for a few seconds
later. So no event need be held back meanwhile: an app that is compared has none that could be newer than the answer.
"""

import base64
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any

import orjson

from meshbridge.appmesh.dialect import status_data, status_of
from meshbridge.link.app_state import INVALID, AppState, Listed
from meshbridge.link.output import REPLACEMENT, Missing, Outputs
from meshbridge.model.events import DAEMON_PLACE, Event, EventType, gap

__all__ = ["Apps", "Comparison"]


_MOST_HOLES = 100  # that wait for a repair; all of them are written again with each that is new
_LAST_WORDS = 1000  # of apps that are gone; to be registered again, an app is usually registered soon


@dataclass(slots=True)
class Comparison:
    """What a comparison gives: events that were missed, in order, and the apps that are to be looked at again."""

    events: list[Event] = field(default_factory=list)
    look_again: set[str] = field(default_factory=set)
    invalid: int = 0  # listed apps that could not be read


@dataclass(slots=True)
class _Hole:
    run: str
    first: int | None
    last: int | None


@dataclass(slots=True)
class _LastWords:
    """What was said last of an app that is gone, and by which event."""

    status: str | None = None
    status_sequence: int = 0
    health: int | None = None
    health_sequence: int = 0


class Apps:
    """The known state of every app of a daemon, and the holes in its numbering that are not told yet.

    ``kept`` is what :meth:`changes` gave before, from the journal. ``exact``: output that is no UTF-8 stays bytes.
    """

    def __init__(self, daemon: str, kept: dict[str, str], *, exact: bool = False) -> None:
        self.daemon = daemon
        self.states: dict[str, AppState] = {}
        self._holes: list[_Hole] = []
        self.outputs = Outputs(exact=exact)
        self._last_words: dict[str, _LastWords] = {}  # of apps that are gone
        self._compared = False  # whether the whole list was ever compared: before, an app's past is not known
        self._changed: set[str] = set()
        self._marks = 0
        self._looks = 0  # comparisons under way
        self._touched: dict[str, int] = {}  # app -> the mark after which an event touched it; only while looks are
        for app, text in kept.items():
            try:
                self._load(app, text)
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                continue  # of another version: as if the app had not been seen
        self.run = ""

    def _load(self, app: str, text: str) -> None:
        if app != DAEMON_PLACE:
            self.states[app] = AppState.from_text(text)
            return
        fields = orjson.loads(text)
        self._compared = bool(fields["compared"])
        self._holes = [_Hole(*hole) for hole in fields["holes"]]
        self.outputs.load([Missing(**missing) for missing in fields["missing"]])
        self._last_words = {gone: _LastWords(*words) for gone, words in fields["last_words"].items()}

    # --- events --------------------------------------------------------------------------------------------------

    def observe(self, event: Event) -> bool:
        """Takes a live event; True where the app is to be looked at soon.

        STDOUT says nothing of the state, and comes often: it touches nothing but its own position.
        """
        if event.type is EventType.STDOUT:
            return self._print(event)
        app = event.app
        if self._looks:
            self._touched[app] = self._marks
        if event.type is EventType.REMOVED:
            if self.states.pop(app, None) is not None:
                self._changed.add(app)
            self.outputs.removed(app)
            return False
        state = self.states.get(app)
        if state is None:
            # STATUS and EXIT of an app that is gone follow its REMOVED, and must not bring it back.
            if event.type not in {EventType.START, EventType.HEALTH}:
                if event.type is EventType.STATUS:
                    self._keep_last_word(event)
                return False
            if event.type is EventType.HEALTH and app in self._last_words:
                # Of the process that ends, or of an app registered again: the daemon knows.
                self._keep_last_word(event)
                return True
            state = self._make_known(app)
        self._changed.add(app)
        contradicts = state.apply(event, orjson.loads(event.data) or {})
        if event.type is EventType.START:
            self.outputs.started(state)
        return contradicts or state.starts is None

    def leave_out(self, event: Event) -> bool:
        """Instead of :meth:`observe`, a STDOUT event that is not told; whether it can be left out."""
        state = self.states.get(event.app)
        return state is not None and self.outputs.left_out(state)

    def _print(self, event: Event) -> bool:
        state = self.states.get(event.app)
        if state is not None and event.span is not None:
            position, end = event.span
            text = "" if end is not None else orjson.loads(event.data)["output"]
            self.outputs.printed(state, position, end, text)
            self._changed.add(event.app)
        return False

    def _make_known(self, app: str) -> AppState:
        state = self.states[app] = AppState(app)
        if app in self._last_words:
            words = self._last_words.pop(app)
            state.status, state.status_sequence = words.status, words.status_sequence
            state.health, state.health_sequence = words.health, words.health_sequence
            self._changed.add(DAEMON_PLACE)
        return state

    def _keep_last_word(self, event: Event) -> None:
        """STATUS or HEALTH of an app that is gone: if it comes again, that stands as a wrong word about the new one."""
        if len(self._last_words) >= _LAST_WORDS and event.app not in self._last_words:
            self._last_words.pop(next(iter(self._last_words)))
        words, data = self._last_words.setdefault(event.app, _LastWords()), orjson.loads(event.data) or {}
        if event.type is EventType.STATUS:
            words.status, words.status_sequence = status_of(data), event.sequence or 0
        else:
            words.health, words.health_sequence = data.get("health"), event.sequence or 0
        self._changed.add(DAEMON_PLACE)

    def interrupted(self) -> None:
        """Events were not seen for a while; to be called before the next one."""
        for state in self.states.values():
            self.outputs.interrupted(state)

    def hole(self, run: str, first: int | None, last: int | None) -> None:
        """These numbers were never received; told as a gap event once the repair is done."""
        self._holes.append(_Hole(run, first, last))
        self._changed.add(DAEMON_PLACE)

    def tell_surplus_holes(self, now: float) -> list[Event]:
        """A gap event for each hole that there is no room for: these wait for no repair."""
        surplus = max(0, len(self._holes) - _MOST_HOLES)
        told, self._holes = self._holes[:surplus], self._holes[surplus:]
        return [gap(self.daemon, hole.run, hole.first, hole.last, now, reconciled=0) for hole in told]

    def changes(self) -> dict[tuple[str, str], str | None]:
        """The states that changed since the last call, as the journal keeps them; None for an app that is gone."""
        if self.outputs.changed:
            self.outputs.changed = False
            self._changed.add(DAEMON_PLACE)
        changed, self._changed = self._changed, set()
        return {(self.daemon, app): self._text(app) for app in changed}

    def _text(self, app: str) -> str | None:
        if app == DAEMON_PLACE:
            holes = [[hole.run, hole.first, hole.last] for hole in self._holes]
            fields = {
                "compared": self._compared,
                "holes": holes,
                "last_words": {app: astuple(words) for app, words in self._last_words.items()},
                "missing": [asdict(missing) for missing in self.outputs.pending],
            }
            return orjson.dumps(fields).decode()
        state = self.states.get(app)
        return None if state is None else state.to_text()

    # --- comparisons ---------------------------------------------------------------------------------------------

    def mark(self) -> int:
        """Begins a comparison; each one ends with :meth:`compare`, :meth:`compare_one` or :meth:`give_up`."""
        self._looks += 1
        self._marks += 1
        return self._marks

    def give_up(self) -> None:
        """The daemon gave no answer."""
        self._looks -= 1
        if not self._looks:
            self._touched.clear()

    def compare(self, listed: Iterable[dict[str, Any]], mark: int, now: float) -> Comparison:
        """With the list of all apps: what was missed, with a gap event for each hole at the end."""
        found = Comparison()
        present = set()
        listed = list(listed)
        names = {name for fields in listed if isinstance(name := fields.get("name"), str)}
        for fields in listed:
            try:
                one = Listed.from_json(fields, names)
            except INVALID:
                found.invalid += 1
                continue
            present.add(one.app)
            self._compare_app(one, mark, now, found)
        for app in [app for app in self.states if app not in present]:
            self._compare_absent(app, mark, now, found)
        self._compared = True
        self._changed.add(DAEMON_PLACE)
        found.events += self.tell_holes(len(found.events), now)
        self.give_up()
        return found

    def compare_one(self, app: str, fields: dict[str, Any] | None, mark: int, now: float) -> Comparison:
        """With one app, None where the daemon does not know it."""
        found = Comparison()
        if fields is None:
            self._compare_absent(app, mark, now, found)
        else:
            try:
                self._compare_app(Listed.from_json(fields, self.states), mark, now, found)
            except INVALID:
                found.invalid += 1
        self.give_up()
        return found

    def tell_holes(self, reconciled: int, now: float) -> list[Event]:
        """A gap event for each hole; the first one counts what was repaired."""
        holes, self._holes = self._holes, []
        if holes:
            self._changed.add(DAEMON_PLACE)
        return [
            gap(self.daemon, hole.run, hole.first, hole.last, now, reconciled=0 if number else reconciled)
            for number, hole in enumerate(holes)
        ]

    def _compare_absent(self, app: str, mark: int, now: float, found: Comparison) -> None:
        if self._touched.get(app, 0) >= mark:
            found.look_again.add(app)
            return
        state = self.states.pop(app, None)
        if state is not None:
            self._changed.add(app)
            self.outputs.removed(app)
            # An app that came and went between two lists: its last event stands for the time of its registration.
            which = state.registered_at or state.last_event or f"{self.run}.{int(now)}"
            found.events.append(self._event(EventType.REMOVED, app, f"removed/{which}", None, now))

    def _compare_app(self, listed: Listed, mark: int, now: float, found: Comparison) -> None:
        if self._touched.get(listed.app, 0) >= mark:
            found.look_again.add(listed.app)
            return
        state = self.states.get(listed.app) or self._make_known(listed.app)
        found.events += self._missed(state, listed, now)
        before = state.to_text()
        again = state.is_anew(listed) and (self._compared or state.started_at is not None)
        state.take(listed)
        if again:
            self.outputs.replaced(state)
        else:
            self.outputs.compared(state.app)
        if state.to_text() != before:
            self._changed.add(listed.app)

    def _missed(self, state: AppState, listed: Listed, now: float) -> list[Event]:
        """First the status, then what processes did, then health, which is about the process that runs."""
        events = []
        if state.status is not None and state.status != listed.status:
            data: dict[str, Any] = status_data(listed.status, state.status, october=listed.october)
            key = f"status/{self.run}.{state.status_sequence}.{listed.status}{_again(state.status_corrections)}"
            state.status_corrections += 1
            events.append(self._event(EventType.STATUS, state.app, key, data, now))
        # An app seen for the first time gives its state, not a made-up history, unless the whole list was looked at
        # before: then it is new.
        if self._compared or state.started_at is not None:
            events += self._process_events(state, listed, now)
        if state.health is not None and state.health != listed.health:
            data = {"health": listed.health, "previous_health": state.health}
            key = f"health/{self.run}.{state.health_sequence}.{listed.health}{_again(state.health_corrections)}"
            state.health_corrections += 1
            events.append(self._event(EventType.HEALTH, state.app, key, data, now))
        return events

    def _process_events(self, state: AppState, listed: Listed, now: float) -> list[Event]:
        """The EXIT and START that were missed."""
        again, runs = state.is_anew(listed), listed.pid is not None
        start = [self._start(listed, now)] if again else []
        end = []
        if state.has_exited_anew(listed):
            end = [self._exit(state, listed, now)]
        elif state.running and (again or not runs):
            # A process that the daemon killed itself leaves no time and no code there (docs/protocol.md, 'App JSON').
            end = [self._unknown_exit(state, now)]
        if runs:
            return end + start
        # Of a process that both began and ended unseen, the start comes first; of one whose end was seen, no more.
        return start + end if end else []

    def _start(self, listed: Listed, now: float) -> Event:
        data = {"pid": listed.pid, "process_uuid": None}
        key = f"start/{listed.started_at}.{listed.starts}"
        return self._event(EventType.START, listed.app, key, data, now, at=listed.started_at)

    def _exit(self, state: AppState, listed: Listed, now: float) -> Event:
        data = {"exit_code": listed.exit_code, "last_error": listed.last_error, "pid": state.pid}
        return self._event(EventType.EXIT, listed.app, f"exit/{listed.exited_at}", data, now, at=listed.exited_at)

    def _unknown_exit(self, state: AppState, now: float) -> Event:
        data = {"exit_code": None, "last_error": "", "pid": state.pid}
        return self._event(EventType.EXIT, state.app, f"exit/{state.started_at or state.last_event}", data, now)

    def _event(
        self, kind: EventType, app: str, key: str, data: dict[str, Any] | None, now: float, *, at: int | None = None
    ) -> Event:
        """A reconciled event, in the daemon's own form, with an id that every bridge would give it."""
        timestamp = int(now) if at is None else at
        body = {"app_name": app, "data": data, "event_type": kind.name, "timestamp": timestamp}
        return Event(
            self.daemon,
            self.run,
            None,
            kind,
            app,
            float(timestamp),
            orjson.dumps(body),
            reconciled=True,
            received_at=now,
            key=f"r/{app}/{key}",
        )

    # --- output --------------------------------------------------------------------------------------------------

    def fill(self, missing: Missing, data: bytes, now: float) -> list[Event]:
        """The events that bring output which no event brought."""
        state = self.states.get(missing.app)
        events = []
        for position, piece in self.outputs.fill(missing, data, state):
            key = f"stdout/{missing.started_at}/{position}+{len(piece)}"
            text = piece.decode("utf-8", "replace")
            printed: dict[str, Any] = {"finished": False, "output": text, "position": position}
            if self.outputs.exact and REPLACEMENT in text:
                printed["output_base64"] = base64.b64encode(piece).decode()
            event = self._event(EventType.STDOUT, missing.app, key, printed, now)
            events.append(replace(event, process_uuid=missing.process_uuid))
        self._changed.add(missing.app)
        return events


def _again(corrections: int) -> str:
    """Of the first correction after an event nothing; after that its number, so that no id stands for two."""
    return f".{corrections}" if corrections else ""
