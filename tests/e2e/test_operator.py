"""An operator's commands on delivery, with the installed program: against a bridge that runs, and one that does not."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests

from meshbridge.emulator import Emulator
from tests.command_line import run_command
from tests.contract.sinks.http_server import Exchange, HttpServer
from tests.e2e.conftest import Bridge, daemon_settings
from tests.support import wait_for, write_config

START = {"pid": 7, "process_uuid": "p-1"}
EXIT = {"exit_code": 3, "last_error": "", "pid": 7}


class Hook:
    """A destination that refuses each event until the test allows it."""

    def __init__(self) -> None:
        self.status = HTTPStatus.UNPROCESSABLE_ENTITY
        self.server = HttpServer(self._answer)

    def _answer(self, exchange: Exchange) -> None:
        exchange.answer(self.status)

    @property
    def taken(self) -> list[dict[str, Any]]:
        return [orjson.loads(request.body) for request in self.server.requests]


@pytest.fixture
def hook() -> Iterator[Hook]:
    far_end = Hook()
    with far_end.server:
        yield far_end


@pytest.fixture
def bridge(tmp_path: Path, emulator: Emulator, hook: Hook) -> Iterator[Bridge]:
    running = Bridge(
        tmp_path,
        {
            "daemons": {"node-a": daemon_settings(emulator)},
            "sinks": {
                "log": {"type": "file", "path": str(tmp_path / "log")},
                "hook": {"type": "webhook", "url": hook.server.url, "when": {"events": ["EXIT"]}},
            },
        },
    )
    yield running
    running.close()


def command(bridge: Bridge, *words: str, code: int = 0, stdin: str = "") -> str:
    """What a command prints on standard output, or on standard error where it fails."""
    config = write_config(bridge.directory / "meshbridge.yaml", bridge.settings)
    done = run_command(*words, "--config", str(config), stdin=stdin)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout or done.stderr


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def refused(bridge: Bridge, emulator: Emulator, count: int) -> None:
    """A bridge with that many dead letters."""
    bridge.start()
    bridge.wait_up()
    for _ in range(count):
        emulator.emit("web", "EXIT", EXIT)
    wait_for(lambda: f'meshbridge_dead_letters{{sink="hook"}} {count}' in metrics(bridge), "the dead letters")


def metrics(bridge: Bridge) -> str:
    return requests.get(bridge.metrics_url, timeout=60).text


def test_dead_letters_are_shown_explained_retried_and_dropped(bridge: Bridge, emulator: Emulator, hook: Hook) -> None:
    refused(bridge, emulator, 3)
    letters = [json.loads(line) for line in command(bridge, "dead-letters", "list", "--json").splitlines()]
    assert [letter["sink"] for letter in letters] == ["hook"] * 3
    shown = command(bridge, "dead-letters", "list", "--sink", "hook")
    assert letters[0]["event"] in shown
    assert "answers 422" in shown

    explained = json.loads(command(bridge, "explain", letters[0]["event"], "--json"))
    messages = {one["sink"]: one["messages"] for one in explained}
    assert orjson.loads(messages["hook"][0]["body"]) == hook.taken[0]
    assert messages["hook"][0]["to"] == f"POST http://127.0.0.1:{hook.server.port}/…"  # a path may be a secret

    hook.status = HTTPStatus.NO_CONTENT
    assert command(bridge, "dead-letters", "retry", str(letters[1]["id"])) == "1 to be offered again\n"
    wait_for(lambda: 'meshbridge_dead_letters{sink="hook"} 2' in metrics(bridge), "one to be taken")
    assert hook.taken[-1]["id"] == letters[1]["event"]
    assert "1 of 2" in command(bridge, "dead-letters", "drop", str(letters[0]["id"]), str(letters[1]["id"]), code=1)
    assert command(bridge, "dead-letters", "drop", "--all") == "1 dropped\n"
    assert command(bridge, "dead-letters", "list") == "no dead letters\n"
    assert "say which" in command(bridge, "dead-letters", "drop", code=2)


def test_without_a_bridge_the_journal_itself_is_asked_and_what_is_to_be_retried_waits_for_the_start(
    bridge: Bridge, emulator: Emulator, hook: Hook
) -> None:
    refused(bridge, emulator, 2)
    assert bridge.process.end() == 0
    stats = json.loads(command(bridge, "journal", "stats", "--json"))
    assert stats["events"] == len(lines(bridge.directory / "log"))
    assert stats["sinks"]["hook"]["dead_letters"] == 2
    letters = [json.loads(line) for line in command(bridge, "dead-letters", "list", "--json").splitlines()]
    assert letters[0]["event"] in command(bridge, "explain", letters[0]["event"])
    assert command(bridge, "dead-letters", "retry", "--sink", "hook") == "2 to be offered again\n"
    assert "to be retried" in command(bridge, "dead-letters", "list")
    assert "no bridge runs" in command(bridge, "sinks", "pause", "hook", code=1)
    assert "no bridge runs" in command(bridge, "replay", "--sink", "log", code=1)

    hook.status, before = HTTPStatus.NO_CONTENT, len(hook.taken)
    bridge.start()
    wait_for(lambda: [one["id"] for one in hook.taken[before:]] == [one["event"] for one in letters], "the letters")


def test_a_damaged_journal_is_found_and_left_as_it_is(bridge: Bridge, emulator: Emulator) -> None:
    refused(bridge, emulator, 1)
    assert "none damaged" in command(bridge, "journal", "verify")
    assert bridge.process.end() == 0
    assert "none damaged" in command(bridge, "journal", "verify")
    database = bridge.directory / "journal" / "journal.db"
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE events SET body = x'00' WHERE offset = (SELECT min(offset) FROM events)")
    connection.close()
    assert "1 damaged" in command(bridge, "journal", "verify", code=1)
    assert "1 damaged" in command(bridge, "journal", "verify", code=1)
    assert list(database.parent.glob("*damaged*")) == []


def test_a_replay_sends_what_is_kept_again_and_says_so(bridge: Bridge, emulator: Emulator, tmp_path: Path) -> None:
    bridge.start()
    bridge.wait_up()
    for number in range(50):
        emulator.emit(f"app-{number % 2}", "STATUS", {"status": "enabled"})
    wait_for(lambda: len(lines(tmp_path / "log")) >= 50, "the events")
    first = [one for one in lines(tmp_path / "log") if one["subject"] == "app-1"]
    end = json.loads(
        command(bridge, "replay", "--sink", "log", "--since", "1h", "--app", "app-1", "--event", "STATUS", "--json")
    )
    assert (end["state"], end["sent"], end["refused"]) == ("done", 25, 0)
    again = [one for one in lines(tmp_path / "log") if one.get("replayed")]
    assert [one["id"] for one in again] == [one["id"] for one in first]
    assert "0 of" in command(bridge, "replay", "--sink", "log", "--until", "2020-01-01")
    assert "there are: hook, log" in command(bridge, "replay", "--sink", "lgo", code=1)
    assert "--since" in command(bridge, "replay", "--sink", "log", "--since", "yesterday", code=2)


def test_a_sink_is_paused_and_goes_on_with_what_has_waited(bridge: Bridge, emulator: Emulator, tmp_path: Path) -> None:
    bridge.start()
    bridge.wait_up()
    assert command(bridge, "sinks", "pause", "log") == "log is paused\n"
    wait_for(lambda: "paused" in command(bridge, "sinks", "list"), "the pause")
    emulator.emit("web", "START", START)
    wait_for(lambda: 'meshbridge_sink_lag_events{sink="log"} 0' not in metrics(bridge), "the event to wait")
    shown = {one["sink"]: one for one in json.loads(command(bridge, "sinks", "list", "--json"))}
    assert shown["log"]["state"] == "paused"
    assert shown["log"]["lag_events"] >= 1  # the next reconciliation reports that there is no such app
    assert lines(tmp_path / "log") == []
    command(bridge, "sinks", "resume", "log")
    wait_for(lambda: {one["subject"] for one in lines(tmp_path / "log")} == {"web"}, "the event")


def test_an_event_from_a_file_is_explained_for_each_sink(bridge: Bridge) -> None:
    bridge.settings["journal"]["path"] = str(bridge.directory / "journal")
    event = {"app_name": "web", "event_type": "START", "data": START}
    assert "there is no journal" in command(bridge, "explain", "--file", "-", code=1, stdin=json.dumps(event))
    bridge.start()
    bridge.wait_up()
    said = command(bridge, "explain", "--file", "-", stdin=json.dumps(event))
    assert "log: goes there, by when: everything" in said
    assert "hook: left out, by when.events: start is not in it" in said
    del event["data"]
    assert "process_uuid is missing" in command(bridge, "explain", "--file", "-", code=1, stdin=json.dumps(event))
    assert "an event has app_name" in command(bridge, "explain", "--file", "-", code=1, stdin="{}")
    assert "no JSON" in command(bridge, "explain", "--file", "-", code=2, stdin="{")


def test_reload_says_what_has_changed_and_what_is_wrong(bridge: Bridge, tmp_path: Path) -> None:
    bridge.start()
    bridge.wait_up()
    bridge.settings["sinks"]["copy"] = {"type": "file", "path": str(tmp_path / "copy")}
    assert command(bridge, "reload") == "sinks: added copy\n"
    assert command(bridge, "reload") == "nothing has changed\n"
    bridge.settings["sinks"]["copy"]["pth"] = "x"
    assert "sinks.copy.pth: unknown key: did you mean path?" in command(bridge, "reload", code=2)
