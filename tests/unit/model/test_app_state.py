"""What state an app is in has one answer, whichever generation of daemon tells of it."""

import pytest

from meshbridge.model.app_state import State, described, state_of


@pytest.mark.parametrize(
    ("enabled", "running", "state"),
    [
        (True, True, State.RUNNING),
        (True, False, State.STOPPED),
        (False, False, State.DISABLED),
        (False, True, State.RUNNING),  # a run, or one that is being ended
        (None, False, State.STOPPED),
    ],
)
def test_a_state_has_one_word(enabled: bool | None, running: bool, state: State) -> None:
    assert state_of(enabled=enabled, running=running) is state


def test_both_generations_give_the_same_state() -> None:
    older, newer = {"name": "a", "status": 0}, {"name": "a", "enabled": False}
    assert described(older)["state"] == described(newer)["state"] == "disabled"
    assert described({"name": "a", "enabled": True, "pid": 3})["state"] == "running"
    assert described({"name": "a", "status": 1}) == {
        "name": "a",
        "status": 1,
        "enabled": True,
        "one_off": False,
        "owner": "",
        "schedule": None,
        "state": "stopped",
    }
