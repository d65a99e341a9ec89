"""What daemons of each generation report of an app is read into the same fields, never by a version."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshbridge.appmesh import dialect
from meshbridge.appmesh.app import App

OLD = {"name": "web", "status": 1, "owner": "admin", "start_interval_seconds": 30, "pid": 7}
AUGUST = {
    "name": "web",
    "status": 1,
    "owner_principal_id": "oidc:ab",
    "start_interval_seconds": "0 * * * * *",
    "cron": True,
}
OCTOBER = {
    "name": "web",
    "enabled": True,
    "owner_principal_id": "oidc:ab",
    "owner_display_name": "admin@appmesh.local",
    "cron_schedule": "0 * * * * *",
}
RUN = {"name": "8yKhK5WmLma", "last_start_time": 5, "starts": 1}


@pytest.mark.parametrize(
    ("fields", "enabled", "owner", "schedule"),
    [
        (OLD, True, "admin", 30),
        (OLD | {"status": 0}, False, "admin", 30),
        (AUGUST, True, "oidc:ab", "0 * * * * *"),
        (OCTOBER, True, "admin@appmesh.local", "0 * * * * *"),
        (
            {"name": "web", "enabled": False, "owner_principal_id": "oidc:ab", "interval": "PT30S"},
            False,
            "oidc:ab",
            "PT30S",
        ),
        ({"name": "web"}, None, "", None),
        ({"name": "web", "status": "x", "owner": 5, "interval": True}, None, "", None),
    ],
)
def test_each_dialect_gives_the_same_words(fields: dict[str, Any], enabled: Any, owner: str, schedule: Any) -> None:
    house = dialect.house_fields(fields)
    assert (house["enabled"], house["owner"], house["schedule"], house["one_off"]) == (enabled, owner, schedule, False)
    assert house | fields | {"enabled": enabled, "owner": owner} == house, "the daemon's own words stay beside"


@pytest.mark.parametrize(
    ("fields", "names", "one_off"),
    [
        ({"name": "web_1", "status": 2}, (), True),
        ({"name": "8yKhK5WmLma", "status": 0}, (), False),
        (RUN | {"enabled": False}, (), True),
        (RUN | {"enabled": False, "pid": 9}, (), True),
        (RUN | {"enabled": True}, (), False),
        ({"name": "8yKhK5WmLma", "enabled": False}, (), False),  # registered, and never started
        ({"name": "maintenance", "enabled": False, "last_start_time": 5}, (), False),  # 11 letters, but a word
        ({"name": "web_1", "enabled": False, "pid": 9}, (), True),
        ({"name": "web_1", "enabled": False, "starts": 1}, {"web"}, True),
        ({"name": "web_1", "enabled": False, "starts": 1}, {"db"}, False),
        ({"name": "web_1", "enabled": False, "starts": 3}, {"web"}, False),
        ({"name": "web", "enabled": False}, {"web"}, False),
        ({"enabled": False}, (), False),
    ],
)
def test_a_one_off_run_is_known_as_well_as_can_be(fields: dict[str, Any], names: Any, one_off: bool) -> None:
    assert dialect.is_one_off(fields, names) is one_off


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ({"status": "enabled", "previous_status": "disabled"}, "enabled"),
        ({"enabled": False, "previous_enabled": True}, "disabled"),
        ({"enabled": True}, "enabled"),
        ({}, None),
        ({"enabled": 1}, None),
        ({"status": 1}, None),
    ],
)
def test_a_status_event_of_either_dialect_is_read(data: dict[str, Any], status: str | None) -> None:
    assert dialect.status_of(data) == status


@pytest.mark.parametrize("october", [False, True])
def test_a_status_event_of_this_bridge_is_in_the_daemons_own_dialect(october: bool) -> None:
    data = dialect.status_data("disabled", "enabled", october=october)
    assert dialect.status_of(data) == "disabled"
    assert ("enabled" in data) is october


SETTINGS = st.fixed_dictionaries(
    {"name": st.just("a")},
    optional={
        "status": st.sampled_from([0, 1]),
        "stdout_cache_num": st.integers(0, 9),
        "retention": st.just("PT5S"),
        "sec_env": st.just({"K": "v"}),
        "behavior": st.just({"exit": "restart", "control": {"1": "standby"}}),
        "env": st.just({"A": "b"}),
    },
)


@given(
    SETTINGS,
    st.sampled_from([{}, {"start_interval_seconds": 30}, {"start_interval_seconds": "* * * * * *", "cron": True}]),
)
def test_settings_in_the_words_of_one_dialect_survive_the_other(
    fields: dict[str, Any], schedule: dict[str, Any]
) -> None:
    fields = fields | schedule
    october = dialect.request_fields(fields, october=True)
    assert not set(october) & {"status", "sec_env", "retention", "stdout_cache_num", "cron", "start_interval_seconds"}
    assert not {"interval", "cron_schedule"} <= set(october), "both are refused"
    assert dialect.request_fields(october, october=False) == fields
    assert dialect.request_fields(october, october=True) == october


def test_an_owner_goes_only_to_daemons_that_take_one() -> None:
    assert "owner" not in dialect.request_fields({"name": "a", "owner": "x"}, october=True)
    assert dialect.request_fields({"name": "a", "owner": "x"}, october=False)["owner"] == "x"


def test_the_app_knows_the_names_of_each_dialect() -> None:
    app = App(OCTOBER | {"stdout_backup_count": 3, "secret_env": {"K": "v"}, "permission": 32})
    assert (app.enabled, app.is_enabled, app.cron_schedule, app.stdout_backup_count) == (True, True, "0 * * * * *", 3)
    assert app.owner_display_name == "admin@appmesh.local"
    assert app.others_permission is App.Permission.WRITE
    assert App({"status": 0}).is_enabled is False
    assert App({"enabled": False}).to_dict() == {"enabled": False}
    assert App().others_permission is None
    app.set_permission(App.Permission.READ)
    assert app.permission == 22
