"""What would harm a daemon: refused, or warned of."""

import logging
from typing import Any

import orjson
import pytest

from meshbridge.appmesh import App, AppMeshUnsafeError, AppMeshUnsafeWarning
from meshbridge.appmesh.harm import harms_of_app, harms_of_configuration, harms_of_label, harms_of_user
from tests.unit.appmesh.fakes import answer
from tests.unit.appmesh.test_operations import client_over

READ_AS_SOMETHING_ELSE = ["8080", "1", "1.5", ".5", "08", "-3", "+3", "true", "false", "null"]
KEPT = ["0x10", "1e3", "1_000", "2026-01-01", "~", "yes", "", "[a]", "a: b", "# x", " 8080", "v1", "²"]


@pytest.mark.parametrize("text", READ_AS_SOMETHING_ELSE)
@pytest.mark.parametrize("field", ["command", "description", "health_check_cmd", "name", "env"])
def test_a_text_that_the_daemon_reads_as_something_else_costs_the_app(field: str, text: str) -> None:
    app = {"name": "web", "command": "sleep 1", field: {"PORT": text} if field == "env" else text}
    (harm,) = harms_of_app(app)
    assert (harm.where, harm.found, harm.stops_daemon) == ("env.PORT" if field == "env" else field, text, False)


@pytest.mark.parametrize("text", READ_AS_SOMETHING_ELSE)
def test_elsewhere_it_stops_the_daemon(text: str) -> None:
    for harms in (
        harms_of_label(text),
        harms_of_user({"email": text, "roles": ["5"], "name": "5"}),
        harms_of_user({"group": text}),
        harms_of_configuration({"BaseConfig": {"Description": text, "PosixTimezone": "8"}}),
        harms_of_configuration({"Labels": {"5": text}}),
    ):
        assert [harm.stops_daemon for harm in harms] == [True]


@pytest.mark.parametrize("text", KEPT)
def test_a_text_that_the_daemon_keeps_does_no_harm(text: str) -> None:
    app = {"name": "web", "command": "x", "description": text, "env": {"1": text}, "sec_env": {"PORT": "8080"}}
    assert harms_of_app(app) == harms_of_label(text) == harms_of_user({"email": text}) == []


def test_a_negative_number_of_kept_outputs_ends_the_daemon() -> None:
    (harm,) = harms_of_app({"name": "web", "command": "x", "stdout_cache_num": -1})
    assert harm.stops_daemon
    assert harms_of_app({"name": "web", "command": "x", "stdout_cache_num": 0}) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda client, **how: client.add_label("zone", "1", **how),
        lambda client, **how: client.add_user("anna", {"key": "x", "email": "5"}, **how),
        lambda client, **how: client.set_config({"BaseConfig": {"Description": "5"}}, **how),
        lambda client, **how: client.add_app(App({"name": "a", "command": "b", "stdout_cache_num": -1}), **how),
    ],
)
def test_what_would_stop_the_daemon_is_not_sent_unless_unsafe(call: Any) -> None:
    client, exchange = client_over(answer({}))
    with pytest.raises(AppMeshUnsafeError, match="unsafe=True"):
        call(client)
    assert exchange.requests == []
    with pytest.warns(AppMeshUnsafeWarning):
        call(client, unsafe=True)
    assert len(exchange.requests) == 1


def test_what_costs_the_app_is_warned_of_and_sent(caplog: pytest.LogCaptureFixture) -> None:
    client, exchange = client_over(answer({"name": "web"}))
    with caplog.at_level(logging.WARNING), pytest.warns(AppMeshUnsafeWarning, match="sec_env") as caught:
        client.add_app(App({"name": "web", "command": "x", "env": {"PORT": "8080"}}))
    assert caught[0].filename == __file__, "the warning is about the caller's line"
    assert "env.PORT" in caplog.text
    assert len(exchange.requests) == 1


def test_a_shell_app_registered_again_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    client, _ = client_over(answer({"name": "web", "starts": 2}))
    client.add_app(App({"name": "web", "command": "x", "shell": True}))
    assert "127" in caplog.text


@pytest.mark.parametrize(
    ("field", "given", "sent"),
    [
        ("start_time", "2026-12-01T09:00:00+08:00", 1_796_086_800),
        ("end_time", "2026-12-01T01:00:00Z", 1_796_086_800),
        ("start_time", 1_796_086_800, 1_796_086_800),
        ("start_time", "1796086800", 1_796_086_800),
    ],
)
def test_times_go_as_whole_seconds(field: str, given: Any, sent: int) -> None:
    client, exchange = client_over(answer({}))
    client.add_app(App({"name": "web", "command": "x", field: given}))
    assert orjson.loads(exchange.requests[0].body)[field] == sent


@pytest.mark.parametrize(("given", "sent"), [("09:00:00+08:00", 3600), ("2026-12-01T09:00:00+08:00", 3600), (60, 60)])
def test_times_of_day_go_as_seconds_of_the_utc_day(given: Any, sent: int) -> None:
    client, exchange = client_over(answer({}))
    client.add_app(App({"name": "web", "command": "x", "daily_limitation": {"daily_start": given, "daily_end": 0}}))
    assert orjson.loads(exchange.requests[0].body)["daily_limitation"] == {"daily_start": sent, "daily_end": 0}


@pytest.mark.parametrize("fields", [{"start_time": "soon"}, {"daily_limitation": {"daily_start": "25:00"}}])
def test_what_is_no_time_is_an_error_with_its_place(fields: dict[str, Any]) -> None:
    client, exchange = client_over(answer({}))
    with pytest.raises(ValueError, match=r"(start_time|daily_start): '.*' is not a time.* use "):
        client.add_app(App({"name": "web", "command": "x", **fields}))
    assert exchange.requests == []
