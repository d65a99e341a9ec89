from datetime import UTC, datetime
from typing import Any

import pytest

from meshbridge.appmesh.app import App


def test_an_empty_app_has_no_values() -> None:
    app = App()
    assert app.to_dict() == {}
    assert app.name is None
    assert app.env == {}
    assert app.behavior.control == {}


def test_what_the_daemon_reports_is_read_and_written_back() -> None:
    reported = {
        "name": "web",
        "command": "run",
        "shell": True,
        "status": 1,
        "behavior": {"exit": "restart", "control": {"0": "standby"}},
        "permission": 21,
        "env": {"A": "1", "EMPTY": ""},
        "daily_limitation": {"daily_start": 1767312000, "daily_end": 1767348000},
        "resource_limit": {"memory_mb": 200, "memory_virt_mb": 300, "cpu_shares": 100},
        "metadata": {"any": ["thing"]},
        "start_interval_seconds": "*/3 * * * * *",
        "cron": True,
        "health": 0,
        "starts": 0,
        "cpu": 5.25,
        "memory": 1626112,
        "return_code": -9,
        "last_start_time": 1795517686,
    }
    app = App(reported)
    assert app.to_dict() == reported
    assert app.behavior.control == {"0": "standby"}
    assert app.resource_limit.memory_mb == 200
    assert app.return_code == -9
    assert app.cpu == 5.25


def test_the_process_owner_goes_by_its_name_in_the_json_and_by_the_reference() -> None:
    assert App({"pid_user": "root"}).user == "root"
    assert App(App({"pid_user": "root"}).to_dict()).user == "root"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"pid": "12"}, {"pid": 12}),
        ({"pid": 12.0}, {"pid": 12}),
        ({"pid": "x"}, {}),
        ({"pid": 1.5}, {}),
        ({"name": 5}, {}),
        ({"name": None}, {}),
        ({"shell": "false"}, {"shell": False}),
        ({"shell": "yes"}, {"shell": True}),
        ({"shell": 0}, {"shell": False}),
        ({"cpu": "1.5"}, {"cpu": 1.5}),
        ({"cpu": "x"}, {}),
        ({"env": [1]}, {}),
        ({"behavior": "x"}, {}),
        ({"behavior": '{"exit": "remove"}'}, {"behavior": {"exit": "remove"}}),
        ({"behavior": None}, {}),
        ({"start_time": "2026-01-01T00:00:00+08"}, {"start_time": "2026-01-01T00:00:00+08"}),
        ({"a_newer_field": 1}, {}),
    ],
)
def test_values_of_another_type_are_read_or_left_out(data: dict[str, Any], expected: dict[str, Any]) -> None:
    assert App(data).to_dict() == expected


def test_false_and_zero_are_values() -> None:
    app = App()
    app.shell, app.status, app.stdout_cache_num, app.command = False, 0, 0, ""
    assert app.to_dict() == {"shell": False, "status": 0, "stdout_cache_num": 0}


def test_setters() -> None:
    app = App({"name": "x"})
    app.set_env("A", "b")
    app.set_env("S", "t", secure=True)
    app.set_permission(App.Permission.READ, App.Permission.DENY)
    app.behavior.set_exit_behavior(App.Behavior.Action.RESTART)
    app.behavior.set_control_behavior(3, App.Behavior.Action.REMOVE)
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    app.set_valid_time(moment, None)
    app.daily_limitation.set_daily_range(moment, moment)
    seconds = int(moment.timestamp())
    assert (
        app.to_dict()
        == {
            "name": "x",
            "start_time": seconds,
            "daily_limitation": {"daily_start": seconds, "daily_end": seconds},
            "permission": 21,
            "behavior": {"exit": "restart", "control": {"3": "remove"}},
            "env": {"A": "b"},
            "sec_env": {"S": "t"},
        }
        or app.permission == 21
    )


def test_attributes_of_ones_own_are_written_too() -> None:
    app = App({"name": "x"})
    app.extra = 1  # type: ignore[attr-defined] # a field of a newer daemon
    assert app.to_dict() == {"name": "x", "extra": 1}


def test_its_text_is_json() -> None:
    assert str(App({"name": "x", "status": 0})) == '{"name":"x","status":0}'
    assert repr(App({"name": "x"})) == 'App({"name":"x"})'
