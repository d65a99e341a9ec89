"""``meshbridge history`` and ``tail --grep``: beside a bridge that runs, and on a journal that none has open."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from meshbridge.admin.api import Api
from meshbridge.admin.control import ControlSocket
from meshbridge.journal import Journal, JournalOptions
from meshbridge.model.events import Event, decode_push
from tests.command_line import run_command
from tests.integration.admin_api import application_for


def told(sequence: int, seconds_ago: float, kind: str, app: str, **data: object) -> Event:
    at = int(time.time() - seconds_ago)
    fields = {"app_name": app, "data": data, "event_type": kind, "sequence": sequence, "timestamp": at}
    return decode_push("node-a", "1", orjson.dumps(fields), at, {})


def written(sequence: int, text: str) -> Event:
    return told(sequence, 10, "STDOUT", "web", finished=False, output=text, position=sequence)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "journal"
    directory.mkdir(mode=0o700)
    journal = Journal(JournalOptions(path=directory))
    journal.open()
    journal.append(
        [
            told(1, 7200, "START", "old", pid=1, process_uuid="p1"),
            told(2, 7100, "EXIT", "old", pid=1, exit_code=0, last_error=""),
            told(3, 300, "START", "web", pid=2, process_uuid="p2"),
            told(4, 200, "EXIT", "web", pid=2, exit_code=3, last_error="Boom"),
            told(5, 100, "START", "web", pid=3, process_uuid="p3"),
            written(6, "ready\n"),
            written(7, "PANIC: out of ideas\n"),
        ]
    )
    journal.submit([], {("node-a", "web"): '{"running":true,"status":"enabled"}', ("node-a", "old"): "{}"})
    journal.close()
    return directory


@pytest.fixture(params=["running", "offline"])
def environ(directory: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    environ = {**os.environ, "MESHBRIDGE_JOURNAL__PATH": str(directory), "TZ": "UTC"}
    if request.param == "offline":
        yield environ | {"MESHBRIDGE_DAEMONS__A__URL": "tcp://127.0.0.1:1", "MESHBRIDGE_DAEMONS__A__TOKEN": "x"}
        return
    journal = Journal(JournalOptions(path=directory))
    journal.open()
    control = ControlSocket(directory, Api(lambda: application_for([], journal)))
    control.start()
    yield environ
    control.stop(5)
    journal.close()


def test_runs_are_shown_in_the_order_of_their_starts(environ: dict[str, str]) -> None:
    done = run_command("history", env=environ)
    assert (done.returncode, done.stderr) == (0, "")
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["DAEMON", "APP", "START", "END", "RAN", "EXIT", "RESTARTS", "NOTE"]
    assert [row.split()[1] for row in rows] == ["old", "web", "web"]
    assert rows[1].split()[-3:] == ["40s", "3", "0"]
    assert "running" in rows[2]
    assert rows[2].split()[-1] == "1"


def test_runs_are_chosen_by_app_and_time(environ: dict[str, str]) -> None:
    done = run_command("history", "o*", "--json", env=environ)
    (run,) = json.loads(done.stdout)
    assert (run["app"], run["exit_code"], run["duration"], run["process_uuid"]) == ("old", 0, 100, "p1")
    assert [
        one["app"] for one in json.loads(run_command("history", "--since", "1h", "--json", env=environ).stdout)
    ] == [
        "web",
        "web",
    ]
    assert json.loads(run_command("history", "--daemon", "other", "--json", env=environ).stdout) == []
    nothing = run_command("history", "nothing", env=environ)
    assert nothing.stdout == "no process ran in that time, as far as the journal tells\n"


def test_a_time_that_makes_no_sense_is_wrong_usage(environ: dict[str, str]) -> None:
    for options in (["--since", "yesterday"], ["--since", "1h", "--until", "2h"]):
        done = run_command("history", *options, env=environ)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("environ", ["running"], indirect=True)
def test_events_with_a_text_are_followed_from_the_kept_ones_on(environ: dict[str, str]) -> None:
    done = run_command("tail", "--since", "1h", "--grep", "panic", "-n", "1", env=environ)
    assert (done.returncode, done.stdout.rstrip().rpartition("  ")[2]) == (0, "PANIC: out of ideas")
    done = run_command("tail", "--since", "1h", "--grep", "boom", "-n", "1", env=environ)
    assert "exit code 3" in done.stdout
