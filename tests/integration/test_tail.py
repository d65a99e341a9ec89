"""``meshbridge tail`` on the control socket of a bridge: a journal that is appended to, and outlives restarts."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshbridge.admin.api import Api
from meshbridge.admin.control import ControlSocket
from meshbridge.journal import Journal, JournalOptions
from meshbridge.model.events import Event
from tests.command_line import run_command
from tests.integration.admin_api import application_for
from tests.integration.terminal import terminal
from tests.support import Process, make_event, meshbridge_command, wait_for

STARTED = {"pid": 42, "process_uuid": "8yJmRcYk2ZN"}


class Life:
    """A bridge that only has its journal, one life after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {**os.environ, "MESHBRIDGE_JOURNAL__PATH": str(directory), "TZ": "UTC"}
        self.start()

    def start(self) -> None:
        self.journal = Journal(JournalOptions(path=self.directory))
        self.journal.open()
        self.application = application_for([], self.journal)
        self.control = ControlSocket(self.directory, Api(lambda: self.application))
        self.control.start()

    def stop(self) -> None:
        self.control.stop(5)
        self.journal.close()

    def append(self, *events: Event) -> None:
        self.journal.append(events)

    def wait_for_a_reader(self) -> None:
        wait_for(lambda: self.journal.append_listeners, "a stream of events")


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Life]:
    (tmp_path / "journal").mkdir(mode=0o700)
    bridge = Life(tmp_path / "journal")
    yield bridge
    bridge.stop()


def tail(bridge: Life, tmp_path: Path, *options: str) -> Process:
    return Process(meshbridge_command("tail", *options), tmp_path / "tail", bridge.environ)


def shown(process: Process) -> list[Any]:
    """(sequence, type) of what was printed, and what was said beside it."""
    return [
        (int(event["sequence"]), event["type"].rpartition(".")[2])
        for line in process.output().splitlines()
        if not line.startswith("meshbridge:") and (event := json.loads(line))
    ]


def test_events_are_shown_to_a_person(bridge: Life, tmp_path: Path) -> None:
    with tail(bridge, tmp_path) as process:
        bridge.wait_for_a_reader()
        bridge.append(
            make_event(1, "START", data=STARTED),
            make_event(2, data={"output": "one\ntwo \x1b[2J\n", "position": 0}),
            make_event(3, "EXIT", "job", data={"exit_code": 3}),
        )
        process.wait_for_output("exit code 3\n")
        assert process.end(signal.SIGINT) == 0
        lines = process.output().splitlines()
    assert [re.sub(r"^(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d  ", "", line) for line in lines] == [
        "node-a/web                start    pid 42",
        "node-a/web                stdout   one",
        "node-a/web                stdout   two \\x1b[2J",
        "node-a/job                exit     exit code 3",
    ]


def test_colours_are_for_terminals(bridge: Life, tmp_path: Path) -> None:
    environ = bridge.environ | {"TERM": "xterm-256color"}
    with terminal(meshbridge_command("tail"), tmp_path, environ) as seen:
        bridge.wait_for_a_reader()
        bridge.append(make_event(1, "START", data=STARTED))
        seen.wait_to_see("\x1b[32mstart")
        seen.wait_to_see("pid 42")
        seen.type("\x03")
        assert seen.wait_for_end() == 0
        assert "Traceback" not in seen.screen


def test_who_wants_no_colours_gets_none(bridge: Life, tmp_path: Path) -> None:
    environ = bridge.environ | {"TERM": "xterm-256color", "NO_COLOR": "1"}
    with terminal(meshbridge_command("tail", "--count", "1"), tmp_path, environ) as seen:
        bridge.wait_for_a_reader()
        bridge.append(make_event(1, "START", data=STARTED))
        assert seen.wait_for_end() == 0
        seen.wait_to_see("start    pid 42")
        assert "\x1b" not in seen.screen


def test_events_are_chosen(bridge: Life, tmp_path: Path) -> None:
    bridge.append(
        make_event(1, "START", data=STARTED),
        make_event(2, "START", "web-2", data=STARTED),
        make_event(3, "EXIT", "web-2"),
    )
    chosen = ("--since", "1h", "--json", "-a", "web-*", "-a", "job", "-e", "START", "-e", "exit", "--count", "3")
    with tail(bridge, tmp_path, *chosen) as process:
        bridge.wait_for_a_reader()
        bridge.append(make_event(4, "STDOUT", "job"), make_event(5, "EXIT", "job"), make_event(6, "EXIT", "job"))
        assert process.popen.wait(30) == 0  # after the third
        assert shown(process) == [(2, "start"), (3, "exit"), (5, "exit")]


def test_it_goes_on_where_it_was_when_the_bridge_has_restarted(bridge: Life, tmp_path: Path) -> None:
    with tail(bridge, tmp_path, "--json", "-e", "exit") as process:
        bridge.wait_for_a_reader()
        bridge.append(make_event(1, "EXIT"), make_event(2))
        wait_for(lambda: shown(process), "the first")
        bridge.stop()
        process.wait_for_output("meshbridge: the bridge is gone: waiting for it\n")
        journal = Journal(JournalOptions(path=bridge.directory))  # what comes before anybody can listen
        journal.open()
        journal.append([make_event(3, "EXIT"), make_event(4)])
        journal.close()
        bridge.start()
        process.wait_for_output("meshbridge: it goes on\n")
        bridge.append(make_event(5, "EXIT"))
        wait_for(lambda: len(shown(process)) == 3, "all of them")
        assert shown(process) == [(1, "exit"), (3, "exit"), (5, "exit")]
        assert process.end(signal.SIGINT) == 0


def test_it_goes_on_where_it_began_when_nothing_had_come(bridge: Life, tmp_path: Path) -> None:
    bridge.append(make_event(1))
    with tail(bridge, tmp_path, "--json") as process:
        bridge.wait_for_a_reader()
        bridge.stop()
        process.wait_for_output("waiting for it\n")
        bridge.start()
        bridge.append(make_event(2))
        wait_for(lambda: shown(process), "what came meanwhile")
        assert shown(process) == [(2, "stdout")]


def test_what_the_journal_no_longer_has_is_said(bridge: Life, tmp_path: Path) -> None:
    with tail(bridge, tmp_path, "--json") as process:
        bridge.wait_for_a_reader()
        bridge.append(make_event(1))
        wait_for(lambda: shown(process), "the first")
        bridge.stop()
        process.wait_for_output("waiting for it\n")
        for file in bridge.directory.glob("journal.db*"):
            file.unlink()
        bridge.start()
        process.wait_for_output("meshbridge: the journal is another one now: what came before is unknown\n")


def test_nobody_reads_on(bridge: Life) -> None:
    bridge.append(*(make_event(number) for number in range(1, 2000)))
    pipe = f"set -o pipefail; {' '.join(meshbridge_command('tail', '--since', '1h', '--json'))} | head -n 1"
    done = subprocess.run(
        ["bash", "-c", pipe], capture_output=True, text=True, timeout=120, env=bridge.environ, check=False
    )
    assert json.loads(done.stdout)["sequence"] == f"{1:020}"
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-e", "begin"), "--event: not 'begin' but one of start, exit, stdout, health, status, removed, gap"),
        (("--since", "soon"), "--since: 'soon' is neither a time ago (10m, 2h, 1d) nor a time (2026-11-25T07:00Z)"),
        (("-d", "node-z"), "there is no daemon 'node-z' here"),
    ],
)
def test_wrong_options_are_told(bridge: Life, options: tuple[str, ...], said: str) -> None:
    done = run_command("tail", *options, env=bridge.environ)
    assert (done.returncode, done.stderr) == (2, f"meshbridge: {said}\n")
