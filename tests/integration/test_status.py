"""What a running bridge says is wrong: on the command line and over its API, while it goes wrong and is repaired."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshbridge.admin.client import Client
from meshbridge.config.load import load
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.model.events import Envelope
from meshbridge.service.service import Service
from tests.command_line import run_command
from tests.support import free_port, make_event, wait_for, write_config


class Site:
    """A bridge in this process, with one emulated daemon and a file as its sink."""

    def __init__(self, directory: Path, emulator: Emulator) -> None:
        self.file = directory / "meshbridge.yaml"
        self.journal = directory / "journal"
        assert emulator.tcp_address is not None
        self.settings: dict[str, Any] = {
            "daemons": {
                "node-a": {
                    "url": "tcp://{}:{}".format(*emulator.tcp_address),
                    "username": "admin",
                    "password": "admin123",
                    "tls": {"ca_file": str(emulator.ca_file)},
                }
            },
            "sinks": {"status-log": {"type": "file", "path": str(directory / "events.jsonl")}},
            "journal": {"path": str(self.journal)},
            "exporter": {"listen": "127.0.0.1:0"},
        }
        write_config(self.file, self.settings)
        self.service = Service(load(self.file, {}), lambda: load(self.file, {}))
        self.service.start()
        wait_for(lambda: self.get("/api/v1/bridge")["daemons"][0]["state"] == "up", "the daemon")
        wait_for(lambda: self.get("/api/v1/bridge")["sinks"][0]["state"] == "up", "the sink")

    def get(self, path: str, **query: Any) -> Any:
        return Client(self.journal).get(path, **query)

    def kinds(self) -> list[str]:
        return [problem["kind"] for problem in self.get("/api/v1/bridge/problems")]

    def call(self, *arguments: str) -> tuple[int, str]:
        done = run_command("status", *arguments, env={"MESHBRIDGE_JOURNAL__PATH": str(self.journal)})
        assert done.stderr == ""
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(https_port=None, wss_port=None)) as running:
        yield running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, emulator: Emulator) -> Iterator[Site]:
    running = Site(tmp_path_factory.mktemp("bridge"), emulator)
    yield running
    running.service.stop()


def test_a_bridge_that_is_well_has_exit_code_0(site: Site) -> None:
    code, output = site.call()
    assert output.startswith("ok   meshbridge ")
    assert re.search(
        r"no problems, 1 of 1 daemons up, 1 of 1 sinks up, \d+ events waiting, journal .+ of 4.0 GiB", output
    )
    assert code == 0


def test_json_is_the_status_of_the_bridge_with_its_problems(site: Site) -> None:
    code, output = site.call("--json")
    found = json.loads(output)
    assert (code, found["status"], found["problems"]) == (0, "ok", [])
    assert found["daemons"][0]["daemon"] == "node-a"


def test_a_paused_sink_is_a_warning_until_it_is_resumed(site: Site) -> None:
    (courier,) = site.service.parts.couriers
    courier.pause()
    wait_for(lambda: site.kinds() == ["sink_paused"], "the pause")
    code, output = site.call()
    first, second, last = output.splitlines()
    assert first.startswith("warn sink status-log, since ")
    assert second == (
        "     -> Run `meshbridge sinks resume status-log` when the destination is ready. (docs/delivery.md#the-courier)"
    )
    assert last.startswith("warn meshbridge ")
    assert code == 1
    courier.resume()
    wait_for(lambda: site.kinds() == [], "the end of the pause")


def test_a_daemon_that_is_down_is_critical_and_a_reload_without_it_repairs_that(site: Site) -> None:
    down = {"url": f"tcp://127.0.0.1:{free_port()}", "username": "admin", "password": "x"}
    write_config(site.file, {**site.settings, "daemons": {**site.settings["daemons"], "node-b": down}})
    site.service.reload()
    wait_for(lambda: site.kinds() == ["daemon_down"], "the daemon to be down")
    code, output = site.call("--json")
    found = json.loads(output)
    (problem,) = found["problems"]
    assert (code, found["status"]) == (1, "critical")
    assert (problem["severity"], problem["where"], problem["daemon"]) == ("critical", "daemon node-b", "node-b")
    assert "Connection refused" in problem["text"]
    assert problem["since"]
    assert problem["link"] == "overview?daemon=node-b"
    write_config(site.file, site.settings)
    site.service.reload()
    assert site.kinds() == []


def test_a_refused_reload_stays_a_problem_until_one_succeeds(site: Site) -> None:
    site.file.write_text(yaml.safe_dump({**site.settings, "sinks": {"x": {"type": "no-such"}}}), encoding="utf-8")
    with pytest.raises(Exception, match="no-such"):
        site.service.reload()
    assert site.kinds() == ["reload_refused"]
    code, output = site.call()
    assert "no-such" in output
    assert code == 1
    write_config(site.file, site.settings)
    site.service.reload()
    assert site.kinds() == []


def test_a_dead_letter_is_explained_by_its_id(site: Site) -> None:
    (event,) = [make_event(99, "EXIT", "web", {"pid": 1, "exit_code": 4, "last_error": ""}, run="9")]
    journal = site.service.journal
    journal.add_dead_letter("status-log", Envelope(10**6, event), "refused", "too large")
    journal.flush(10.0)
    (letter,) = journal.letters.find("status-log")
    done = run_command(
        "explain", "--letter", str(letter.id), "--json", env={"MESHBRIDGE_JOURNAL__PATH": str(site.journal)}
    )
    (found,) = json.loads(done.stdout)
    assert (done.returncode, found["sink"], found["wanted"]) == (0, "status-log", True)
    assert json.loads(found["messages"][0]["body"])["id"] == "node-a/9/99"
    unknown = run_command("explain", "--letter", "12345", env={"MESHBRIDGE_JOURNAL__PATH": str(site.journal)})
    assert (unknown.returncode, unknown.stderr) == (1, "meshbridge: there is no dead letter 12345\n")
    both = run_command("explain", "node-a/9/99", "--letter", "1", env={"MESHBRIDGE_JOURNAL__PATH": str(site.journal)})
    assert both.returncode == 2
    problems = [(one["kind"], one["since"]) for one in site.get("/api/v1/bridge/problems") if one["sink"]]
    assert problems == [("dead_letters", letter.refused_at)]
    journal.letters.drop("status-log", [])


def test_where_no_bridge_runs_the_exit_code_is_1_too(tmp_path: Path) -> None:
    done = run_command("status", env={"MESHBRIDGE_JOURNAL__PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "no bridge runs on the journal" in done.stderr


def test_figures_are_there_from_the_start_and_go_on(site: Site) -> None:
    wait_for(lambda: site.get("/api/v1/bridge/figures")["times"], "the first figures")
    before = len(site.get("/api/v1/bridge/figures", range="1h")["times"])
    site.service.observer.sample()
    found = site.get("/api/v1/bridge/figures", range="1h")
    assert len(found["times"]) > before
    assert (found["range"], found["step_seconds"]) == ("1h", 10)
    assert list(found["daemons"]) == ["node-a"]
    assert list(found["sinks"]) == ["status-log"]
    assert found["journal"]["bytes"][-1] > 0
    assert site.get("/api/v1/bridge/figures", range="1d")["step_seconds"] == 300


def test_an_unknown_range_is_refused(site: Site) -> None:
    with pytest.raises(Exception, match="1h") as refused:
        site.get("/api/v1/bridge/figures", range="2h")
    assert refused.value.status == HTTPStatus.UNPROCESSABLE_ENTITY  # type: ignore[attr-defined]


def test_an_app_that_crashes_again_and_again_is_found(tmp_path: Path, emulator: Emulator) -> None:
    site = Site(tmp_path, emulator)
    now = time.time()
    process = [("START", {"pid": 7, "process_uuid": "u"}), ("EXIT", {"pid": 7, "exit_code": 3, "last_error": ""})]
    site.service.journal.append(
        [
            replace(make_event(number + 1, kind, "crasher", data), timestamp=now - 20 + number)
            for number, (kind, data) in enumerate(process * 5)
        ]
    )
    (found,) = wait_for(lambda: site.get("/api/v1/bridge/problems"), "the crash loop")
    assert (found["kind"], found["daemon"], found["app"]) == ("crash_loop", "node-a", "crasher")
    assert found["text"] == "4 restarts after a failure within the last hour."
    assert found["link"] == "apps/node-a/crasher"
    site.service.stop()
