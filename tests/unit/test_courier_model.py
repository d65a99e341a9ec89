"""The courier against a list and a few sets (a Hypothesis state machine), whatever its destination and operators do.

The destination here accepts exactly what it acknowledges, so nothing may come twice, save where a rule allows it.
"""

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshbridge.delivery import Courier
from meshbridge.fields import Batch, When
from meshbridge.fields import RetryWaits as Waits
from meshbridge.journal import Journal, JournalOptions
from meshbridge.model.events import Envelope
from meshbridge.model.status import PassState, ReplayStatus, SinkState
from meshbridge.sinks.base import Gone, NotConnected, Refused, Retry, SinkError
from meshbridge.sinks.options import SinkOptions
from tests.support import make_event, wait_for

FAST = Waits(initial=0.0001, max=0.001)
MOST_BUGS = 2
ENDINGS = ("retry", "lost", "bug", "no connection")


class FarEnd:
    """Takes events in order, up to where its script or a poisonous one ends the write."""

    def __init__(self) -> None:
        self.script: list[tuple[str, int]] = []  # endings to come, and how many events are taken before
        self.poison: set[int] = set()
        self.tells_which = True
        self.bugs = 0  # in a row
        self.connected = False
        self.live: list[int] = []
        self.again: list[int] = []  # of replays
        self.sizes: list[int] = []

    def connect(self, timeout_seconds: float) -> None:
        if self.script and self.script[0][0] == "no connection":
            self.script.pop(0)
            raise NotConnected("no route")
        self.connected = True

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        assert self.connected, "a write without a connection"
        assert batch, "an empty write"
        self.sizes.append(len(batch))
        ending, count = self.script.pop(0) if self.script else ("", len(batch))
        # A third on the same event would make it a dead letter: tests/unit/test_courier.py has that.
        ending = "" if ending == "bug" and self.bugs == MOST_BUGS else ending
        self.bugs = self.bugs + 1 if ending == "bug" else 0
        taken = 0 if ending == "bug" else min(count, len(batch))
        culprit = next((place for place, one in enumerate(batch) if one.event.sequence in self.poison), len(batch))
        if culprit < len(batch) and culprit <= taken and ending != "bug":
            taken, ending = culprit if self.tells_which else 0, "refused"
        for envelope in batch[:taken]:
            (self.again if envelope.event.replayed else self.live).append(envelope.event.sequence or 0)
        self._end(ending, taken)

    def _end(self, ending: str, taken: int) -> None:
        errors: dict[str, Exception] = {
            "retry": Retry("busy", acknowledged=taken),
            "lost": NotConnected("lost", acknowledged=taken),
            "no connection": NotConnected("lost", acknowledged=taken),
            "refused": Refused("never", acknowledged=taken),
            "gone": Gone("410", acknowledged=taken),
            "bug": ZeroDivisionError("oops"),
        }
        if ending:
            error = errors[ending]
            self.connected = self.connected and isinstance(error, SinkError) and not isinstance(error, NotConnected)
            raise error

    def idle(self) -> None:
        assert self.connected, "idle without a connection"

    def close(self, timeout_seconds: float) -> None:
        self.connected = False


class CourierModel(RuleBasedStateMachine):
    """``wanted`` is what the rule lets through, in order; what is poisonous among it ends as a dead letter."""

    def __init__(self) -> None:
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory(prefix="courier-model-")
        self.journal = Journal(JournalOptions(path=Path(self._temporary.name)))
        self.journal.open()
        self.far = FarEnd()
        self.appended = 0
        self.wanted: list[int] = []
        self.letters: set[int] = set()
        self.freed: list[int] = []  # letters that were taken when they were offered again
        self.paused = self.gone = False
        self.courier = self._new_courier()

    def _new_courier(self) -> Courier:
        options = SinkOptions.model_validate(
            {"from": "start", "retry": FAST, "batch": Batch(max_events=6), "when": When(not_apps=("quiet",))}
        )
        courier = Courier("s", self.far, self.journal, options)
        courier.start()
        return courier

    @rule(apps=st.lists(st.sampled_from(["web", "db", "quiet"]), min_size=1, max_size=20), data=st.data())
    def append(self, apps: list[str], data: st.DataObject) -> None:
        first = self.appended + 1
        poison = data.draw(st.sets(st.integers(first, first + len(apps) - 1), max_size=2))
        self.far.poison |= poison
        for number, app in enumerate(apps, first):
            if app != "quiet":
                self.wanted.append(number)
        self.appended += len(apps)
        self.journal.append([make_event(number, app=app) for number, app in enumerate(apps, first)])

    @rule(endings=st.lists(st.tuples(st.sampled_from(ENDINGS), st.integers(0, 6)), max_size=8))
    def the_far_end_has_a_bad_time(self, endings: list[tuple[str, int]]) -> None:
        """Eight in a row are enough to open the breaker."""
        self.far.script += endings

    @rule(tells=st.booleans())
    def the_far_end_tells_which_it_refuses(self, tells: bool) -> None:
        self.far.tells_which = tells

    @rule()
    def pause(self) -> None:
        self.courier.pause()
        self.paused = True
        wait_for(lambda: self.courier.status().state in {SinkState.PAUSED, SinkState.GONE}, "the pause")

    @rule()
    def resume(self) -> None:
        self.courier.resume()
        self.paused = False

    @precondition(lambda self: not self.paused)
    @rule(count=st.integers(0, 6))
    def the_far_end_wants_no_more_until_an_operator_says_so(self, count: int) -> None:
        self._settle()
        self.far.script = [("gone", count)]
        self.append_plain()
        wait_for(lambda: self.courier.status().state is SinkState.GONE, "the end")
        assert not self.far.connected
        self.courier.resume()

    def append_plain(self) -> None:
        self.appended += 1
        self.wanted.append(self.appended)
        self.journal.append([make_event(self.appended)])

    @rule()
    def restart(self) -> None:
        assert self.courier.stop(10)
        assert not self.far.connected
        self.courier, self.paused = self._new_courier(), False

    @precondition(lambda self: not self.paused)
    @rule()
    def replay(self) -> None:
        """All that is kept once more, in order, and beside it nothing moves."""
        self._settle()
        self.far.again.clear()
        replay = self.courier.replay()
        wait_for(lambda: self._replay(replay.id).state is PassState.DONE, "the end of the replay")
        taken = [number for number in self.wanted if number not in self.far.poison]
        assert self.far.again == taken
        status = self._replay(replay.id)
        assert (status.sent, status.refused) == (len(taken), len(self.wanted) - len(taken))

    def _replay(self, replay: str) -> ReplayStatus:
        return next(one for one in self.courier.replays() if one.id == replay)

    @precondition(lambda self: not self.paused)
    @rule(data=st.data())
    def cure_some_and_offer_all_letters_again(self, data: st.DataObject) -> None:
        self._settle()
        letters = sorted(self.letters)
        cured = set(data.draw(st.lists(st.sampled_from(letters), unique=True))) if letters else set()
        self.far.poison -= cured
        assert self.journal.letters.retry("s", []) == len(letters)
        self.courier.retry_letters()
        self.letters -= cured
        self.freed += sorted(cured)
        wait_for(lambda: not self.journal.letters.find("s", retry_only=True, limit=1000), "the letters' turn")
        self._letters_agree()

    @precondition(lambda self: not self.paused)
    @rule()
    def settle(self) -> None:
        self._settle()

    def _settle(self) -> None:
        """Once all has gone its way, each event was delivered once, in order, or is a dead letter, or left out."""
        wait_for(lambda: self.journal.cursor("s") == self.appended, f"cursor {self.appended}")
        assert self.journal.flush(10)
        self.letters = {number for number in self.wanted if number in self.far.poison}
        assert [number for number in self.far.live if number not in self.freed] == [
            number for number in self.wanted if number not in self.letters and number not in self.freed
        ]
        assert sorted(number for number in self.far.live if number in self.freed) == sorted(self.freed)
        self._letters_agree()

    def _letters_agree(self) -> None:
        assert self.journal.flush(10)
        found = [letter.envelope.event.sequence for letter in self.journal.letters.find("s", limit=1000)]
        assert found == sorted(self.letters)
        assert self.journal.dead_letters("s") == len(self.letters)

    @invariant()
    def the_cursor_is_never_ahead_of_what_is_settled(self) -> None:
        cursor = self.journal.cursor("s")
        live = set(self.far.live)
        behind = [number for number in self.wanted if number <= cursor]
        assert all(number in live or number in self.far.poison for number in behind)

    @invariant()
    def no_write_is_larger_than_a_batch(self) -> None:
        assert max(self.far.sizes, default=0) <= 6

    def teardown(self) -> None:
        with contextlib.ExitStack() as end:
            end.callback(self._temporary.cleanup)
            end.callback(self.journal.close)
            self.resume()
            self._settle()
            assert self.courier.stop(10)


CourierModel.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
test_the_courier_agrees_with_its_model = CourierModel.TestCase
