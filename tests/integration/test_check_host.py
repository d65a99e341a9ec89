"""What ``meshbridge check`` says of this host (the file, the journal's directory), and of what sinks find."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

import meshbridge
from meshbridge.admin.api import Api
from meshbridge.admin.control import ControlSocket
from meshbridge.checks import destinations, host, worst
from meshbridge.checks.host import RunningBridge, check_file, check_journal, check_running
from meshbridge.config.load import Settings, load
from meshbridge.journal import Journal, JournalOptions
from meshbridge.model.status import Grade, Verdict
from meshbridge.sinks.base import Found, NotConnected
from tests.integration.admin_api import application_for
from tests.support import write_config

DAEMONS = {"node-a": {"url": "tcp://127.0.0.1:1", "username": "u", "password_file": "/run/secrets/p"}}


def settings_of(path: Path, **parts: Any) -> tuple[Settings, Path]:
    file = write_config(
        path / "meshbridge.yaml", {"daemons": DAEMONS, "sinks": {"log": {"type": "file", "path": "-"}}} | parts
    )
    return load(file, {}), file


# --- the file ------------------------------------------------------------------------------------------------------


def test_the_file_is_fine(tmp_path: Path) -> None:
    settings, file = settings_of(tmp_path)
    assert check_file(settings, file) == Verdict("configuration", "file", Grade.OK, f"{file}: 1 daemon, 1 sink")


def test_a_file_with_secrets_that_everybody_can_read(tmp_path: Path) -> None:
    daemons = {"node-a": {"url": "tcp://127.0.0.1:1", "username": "u", "password": "hunter2"}}
    settings, file = settings_of(tmp_path, daemons=daemons)
    file.chmod(0o644)
    found = check_file(settings, file)
    assert found.grade is Grade.WARNING
    assert found.text == f"{file} holds daemons.node-a.password, and everybody can read it"
    assert found.remedy == f"chmod o-r {file}, or use daemons.node-a.password_file"
    file.chmod(0o640)
    assert check_file(settings, file).grade is Grade.OK


def test_a_bridge_without_sinks_is_a_warning(tmp_path: Path) -> None:
    settings, file = settings_of(tmp_path, sinks={})
    assert check_file(settings, file).grade is Grade.WARNING


# --- the journal's directory ---------------------------------------------------------------------------------------


def of(directory: Path, running: RunningBridge | None = None, max_bytes: int = 2**20) -> dict[str, Verdict]:
    options = JournalOptions(path=directory, max_bytes=max_bytes)
    return {verdict.aspect: verdict for verdict in check_journal(options, running)}


def test_a_directory_that_is_there_and_one_that_will_be(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    found = of(tmp_path)
    assert (found["rights"].text, found["rights"].grade) == ("writable", Grade.OK)
    assert found["space"].grade is Grade.OK
    found = of(tmp_path / "a" / "b")
    assert (found["rights"].text, found["rights"].grade) == (f"will be created in {tmp_path}", Grade.OK)
    assert list(tmp_path.iterdir()) == []  # looking has made nothing


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    rights = of(file)["rights"]
    assert (rights.grade, rights.text) == (Grade.FAILED, f"{file} is no directory")
    rights = of(Path("/proc/meshbridge"))["rights"]
    assert rights.grade is Grade.FAILED
    assert rights.text.startswith("cannot write in /proc: ")
    assert "make /proc/meshbridge a directory of user" in (rights.remedy or "")


def test_a_directory_where_others_can_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    rights = of(tmp_path)["rights"]
    assert rights.grade is Grade.FAILED, "a start refuses it"
    assert rights.remedy == f"chmod go-w {tmp_path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_a_journal_that_another_user_has_made(tmp_path: Path) -> None:
    """As after one run by root, where a service of another user runs from then on."""
    for directory in (tmp_path, *tmp_path.parents):  # pytest makes them for their owner alone
        if not directory.stat().st_mode & 0o001:
            directory.chmod(0o755)
    journal = Journal(JournalOptions(path=tmp_path / "journal"))
    journal.open()
    journal.close()
    os.chown(tmp_path / "journal", 65534, 65534)
    os.seteuid(65534)
    try:
        denied = host._denied(tmp_path / "journal", tmp_path / "journal", 65534)
    finally:
        os.seteuid(0)
    assert denied is not None
    assert denied.startswith("journal.db")
    assert denied.endswith("belongs to user 0, and user 65534 cannot write it")


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(tmp_path).free
    space = of(tmp_path, max_bytes=free * 2)["space"]
    assert space.grade is Grade.WARNING
    assert "or set journal.max_bytes to" in (space.remedy or "")
    monkeypatch.setattr("meshbridge.checks.host._LEAST_FREE_BYTES", free * 2)
    assert of(tmp_path)["space"].grade is Grade.FAILED


def test_a_bridge_that_runs_on_the_journal_is_asked(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert RunningBridge.find(tmp_path) is None
    journal = Journal(JournalOptions(path=tmp_path))
    journal.open()
    served = ControlSocket(tmp_path, Api(lambda: application_for([], journal)))
    served.start()
    try:
        running = RunningBridge.find(tmp_path)
        assert running is not None
        assert running.pid == os.getpid()
        assert check_running(running).grade is Grade.OK
        found = of(tmp_path, running)
        assert found["rights"].text == f"in use by the running bridge (process {os.getpid()}): 0 events"
        assert found["space"].grade is Grade.OK
    finally:
        served.stop(5)
        journal.close()
    assert RunningBridge.find(tmp_path) is None


def test_what_stands_in_the_control_sockets_place_is_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "control.sock"
    place.write_text("mine")
    control = ControlSocket(tmp_path, Api(FastAPI))
    with pytest.raises(OSError, match="in the way"):
        control.start()
    control.stop(1)
    assert place.read_text() == "mine"


def test_a_running_bridge_of_another_version() -> None:
    found = check_running(RunningBridge(42, {}, "0.0.1"))
    assert found.grade is Grade.WARNING
    assert found.text == f"version 0.0.1 runs (process 42), and this is {meshbridge.__version__}"


# --- destinations --------------------------------------------------------------------------------------------------


class Probed:
    """Settings of a sink, as far as ``check`` is concerned."""

    def __init__(self, outcome: Found | Exception | None) -> None:
        self._outcome = outcome

    def probe(self, _timeout_seconds: float) -> Found | None:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


def test_a_sinks_findings_become_verdicts() -> None:
    def verdict(outcome: Found | Exception | None) -> Verdict:
        (found,) = destinations.check_sink("hook", Probed(outcome))
        return found

    assert verdict(None) == Verdict("sink hook", "connection", Grade.OK, "reachable")
    assert verdict(Found("it answers")) == Verdict("sink hook", "connection", Grade.OK, "it answers")
    assert verdict(Found("it answers", "with 404", "see url")) == Verdict(
        "sink hook", "connection", Grade.WARNING, "with 404", "see url"
    )
    told = verdict(NotConnected("not trusted; set tls.ca_file to its authority", reason="tls"))
    assert (told.text, told.remedy) == ("not trusted", "set tls.ca_file to its authority")
    known = verdict(NotConnected("cannot connect", reason="unreachable"))
    assert (known.grade, known.text) == (Grade.FAILED, "cannot connect")
    assert known.remedy is not None
    bug = verdict(KeyError("port"))  # of somebody's own sink, say: the others' verdicts are printed all the same
    assert (bug.grade, bug.text) == (Grade.FAILED, "its probe failed: KeyError('port')")


def test_the_worst_verdict_counts() -> None:
    ok, warning, failed = (Verdict("a", "b", grade, "c") for grade in (Grade.OK, Grade.WARNING, Grade.FAILED))
    assert [worst(some) for some in ([], [ok], [ok, warning], [failed, warning])] == [
        Grade.OK,
        Grade.OK,
        Grade.WARNING,
        Grade.FAILED,
    ]
