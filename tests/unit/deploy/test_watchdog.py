"""What counts as progress, and what the watchdog is fed for."""

import queue
from pathlib import Path

import pytest

from meshbridge.model.status import JournalStatus, LinkState, LinkStatus, SinkState, SinkStatus
from meshbridge.service.notify import Notifier
from meshbridge.service.watchdog import Look, Progress, Watchdog, journal_look, link_look, sink_look
from tests.support import DEADLINE_SECONDS


def test_a_part_that_moves_is_never_stuck() -> None:
    progress = Progress(patience_seconds=60)
    assert [progress.stuck([Look("sink a", resting=False, mark=at)], at) for at in (0, 50, 100, 150)] == [[]] * 4


def test_a_part_that_does_not_move_is_stuck_after_its_patience() -> None:
    progress = Progress(patience_seconds=60)
    looks = [Look("sink a", resting=False, mark=1), Look("sink b", resting=False, mark=1, extra_seconds=300)]
    for at, stuck in ((0, []), (60, []), (61, ["sink a"]), (360, ["sink a"]), (361, ["sink a", "sink b"])):
        assert progress.stuck(looks, at) == stuck


def test_rest_starts_the_patience_anew() -> None:
    progress = Progress(patience_seconds=60)
    rest, work = Look("sink a", resting=True, mark=1), Look("sink a", resting=False, mark=1)
    for look, at, stuck in ((work, 0, []), (rest, 59, []), (work, 119, []), (work, 120, ["sink a"])):
        assert progress.stuck([look], at) == stuck


def test_a_part_that_moves_again_is_no_longer_stuck() -> None:
    progress = Progress(patience_seconds=60)
    assert progress.stuck([Look("journal", resting=False, mark=1)], 0) == []
    assert progress.stuck([Look("journal", resting=False, mark=1)], 100) == ["journal"]
    assert progress.stuck([Look("journal", resting=False, mark=2)], 101) == []


@pytest.mark.parametrize(
    ("state", "lag", "resting"),
    [
        (SinkState.UP, 0, True),
        (SinkState.UP, 5, False),
        (SinkState.WAITING, 5, True),  # a dead destination is no reason to restart
        (SinkState.GONE, 5, True),
        (SinkState.CONNECTING, 0, False),
        (SinkState.STOPPED, 0, False),  # its thread has ended, without a request
    ],
)
def test_when_a_courier_rests(state: SinkState, lag: int, resting: bool) -> None:
    assert sink_look(SinkStatus("broker", state, lag_events=lag), 0.0).resting is resting


def test_a_courier_moves_by_what_it_delivers_fails_or_leaves_out() -> None:
    before = sink_look(SinkStatus("broker", SinkState.UP, delivered=1, failed=1, lag_events=5), 2.0)
    assert before.extra_seconds == 2.0
    for moved in (
        SinkStatus("broker", SinkState.UP, delivered=2, failed=1, lag_events=5),
        SinkStatus("broker", SinkState.UP, delivered=1, failed=2, lag_events=5),
        SinkStatus("broker", SinkState.UP, delivered=1, failed=1, lag_events=4),
    ):
        assert sink_look(moved, 0.0).mark != before.mark


@pytest.mark.parametrize("state", list(LinkState))
def test_a_link_rests_while_it_is_up_or_waits_and_its_thread_lives(state: LinkState) -> None:
    status = LinkStatus("node-a", state)
    assert link_look(status, alive=True).resting is (state in {LinkState.UP, LinkState.WAITING})
    assert not link_look(status, alive=False).resting


def test_a_journal_moves_by_what_it_writes(tmp_path: Path) -> None:
    status = JournalStatus(str(tmp_path), open=True, last_offset=7)
    before = journal_look(status, settled=False)
    assert not before.resting
    (tmp_path / "journal.db-wal").touch()  # a cursor was written: no offset moves
    assert journal_look(status, settled=False).mark != before.mark
    assert journal_look(status, settled=True).resting
    full = JournalStatus(str(tmp_path), open=True, last_offset=7, last_error="database or disk is full")
    assert journal_look(full, settled=False).resting


class Manager(Notifier):
    """Keeps what it was to send."""

    def __init__(self) -> None:
        super().__init__({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000"})
        self.sent: queue.Queue[str] = queue.Queue()

    def send(self, message: str) -> None:
        self.sent.put(message)


def test_it_is_fed_while_all_move_or_rest_and_no_longer() -> None:
    manager = Manager()
    looks = [Look("sink a", resting=True)]
    watchdog = Watchdog(manager, lambda: looks, lambda: "fine", Progress(patience_seconds=0.0))
    watchdog.start()
    try:
        for _ in range(3):
            assert manager.sent.get(timeout=DEADLINE_SECONDS) == "WATCHDOG=1\nSTATUS=fine"
        looks[:] = [Look("sink a", resting=False)]
        while (message := manager.sent.get(timeout=DEADLINE_SECONDS)) == "WATCHDOG=1\nSTATUS=fine":
            pass
        assert message == "STATUS=stuck: sink a"
        looks[:] = [Look("sink a", resting=True)]
        assert manager.sent.get(timeout=DEADLINE_SECONDS) == "WATCHDOG=1\nSTATUS=fine"
    finally:
        watchdog.stop()


def test_nobody_is_fed_who_does_not_ask() -> None:
    def looks() -> list[Look]:
        raise AssertionError("looked at")

    watchdog = Watchdog(Notifier({}), looks, lambda: "")
    watchdog.start()
    watchdog.stop()


def test_a_sink_that_holds_events_back_by_its_settings_rests() -> None:
    assert sink_look(SinkStatus("people", SinkState.UP, lag_events=5, held=True), 0.0).resting
    assert not sink_look(SinkStatus("people", SinkState.CONNECTING, lag_events=5, held=True), 0.0).resting
