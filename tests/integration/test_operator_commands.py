"""The operator's commands as they are called, on the control socket of a bridge with two emulated daemons."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from meshbridge.admin.api import Api
from meshbridge.admin.control import ControlSocket
from meshbridge.appmesh import App, AppMeshClient, AppMeshClientTCP, AppMeshError
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.journal import Journal, JournalOptions
from meshbridge.link import DaemonOptions, Link
from tests.command_line import run_command
from tests.integration.admin_api import application_for
from tests.integration.terminal import terminal
from tests.support import Process, free_port, meshbridge_command, wait_for, write_config

NAMES = ("node-a", "node-b")


class Site(NamedTuple):
    """Two daemons and what a bridge serves of them."""

    directory: Path  # of the journal
    clients: dict[str, AppMeshClient]
    restart: Callable[[], None]  # of the control socket, as a new life of the bridge has it

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "MESHBRIDGE_JOURNAL__PATH": str(self.directory), "COLUMNS": "200"}

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_command(*arguments, env=self.environ)

    def json(self, *arguments: str, code: int = 0) -> Any:
        done = self.call(*arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("journal")
    journal = Journal(JournalOptions(path=directory))
    journal.open()
    daemons = {name: Emulator(EmulatorOptions(https_port=None, wss_port=None, node_name=name)) for name in NAMES}
    links, clients = [], dict[str, AppMeshClient]()
    for name, daemon in daemons.items():
        daemon.start()
        assert daemon.tcp_address is not None
        settings = {
            "url": "tcp://{}:{}".format(*daemon.tcp_address),
            "username": "admin",
            "password": "admin123",
            "tls": {"ca_file": str(daemon.ca_file)},
        }
        links.append(Link(name, DaemonOptions.model_validate(settings), journal))
        links[-1].start()
        clients[name] = AppMeshClientTCP(daemon.tcp_address, str(daemon.ca_file))
        clients[name].login("admin", "admin123")
    clients["node-a"].add_app(App({"name": "web", "command": "echo ready; exec sleep 600", "shell": True}))
    clients["node-a"].add_app(App({"name": "db", "command": "exec sleep 600", "shell": True, "description": "d"}))
    clients["node-b"].add_app(App({"name": "web", "command": "exec sleep 600", "shell": True}))
    clients["node-b"].add_app(App({"name": "idle", "command": "exec sleep 600", "shell": True, "status": 0}))
    for name, app in (("node-a", "web"), ("node-a", "db"), ("node-b", "web")):
        wait_for(lambda name=name, app=app: clients[name].get_app(app).pid, f"{app} on {name}")  # type: ignore[misc]
    controls = [ControlSocket(directory, Api(lambda: application_for(links, journal)))]
    controls[0].start()

    def restart() -> None:
        controls[-1].stop(0)
        controls.append(ControlSocket(directory, Api(lambda: application_for(links, journal))))
        controls[-1].start()

    yield Site(directory, clients, restart)
    controls[-1].stop(5)
    for link in links:
        assert link.stop(10)
    for client in clients.values():
        client.close()
    for daemon in daemons.values():
        daemon.stop()
    journal.close()


# --- apps ----------------------------------------------------------------------------------------------------------


def test_apps_of_every_daemon_are_listed(site: Site) -> None:
    done = site.call("apps")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout  # no colour without a terminal
    header, *rows = [line.split() for line in done.stdout.splitlines()]
    assert header == ["DAEMON", "APP", "STATE", "HEALTH", "PID", "UP", "STARTS", "EXIT", "OWNER"]
    assert [row[:4] for row in rows] == [
        ["node-a", "db", "running", "healthy"],
        ["node-a", "web", "running", "healthy"],
        ["node-b", "idle", "disabled", "-"],
        ["node-b", "web", "running", "healthy"],
    ]


def test_apps_can_be_chosen(site: Site) -> None:
    assert [(one["daemon"], one["name"]) for one in site.json("apps", "w*", "db")] == [
        ("node-a", "db"),
        ("node-a", "web"),
        ("node-b", "web"),
    ]
    assert [one["name"] for one in site.json("apps", "--daemon", "node-b")] == ["idle", "web"]
    unknown = site.call("apps", "--daemon", "node-c")
    assert unknown.returncode == 2
    assert unknown.stderr == (
        "meshbridge: there is no daemon 'node-c' here: did you mean node-b? (there are: node-a, node-b)\n"
    )


def test_an_app_is_shown_whole(site: Site) -> None:
    done = site.call("app", "db")
    assert done.returncode == 0
    assert "daemon: node-a\nstate: running\n" in done.stdout
    assert "description: d\n" in done.stdout
    assert site.json("app", "db")["pid"] == site.clients["node-a"].get_app("db").pid


@pytest.mark.parametrize("name", ["web.prod", "two words", "naïve-日本", "50%", "a+b?c#d", "x"])
def test_an_app_that_is_listed_can_be_addressed(site: Site, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Daemons before 2.2.7 allow such names."""
    monkeypatch.setattr("meshbridge.emulator.definitions.NAME", re.compile(r".+"))
    site.clients["node-a"].add_app(App({"name": name, "command": "echo hello; exec sleep 600", "shell": True}))
    try:
        assert name in [one["name"] for one in site.json("apps")]
        assert site.json("app", name)["name"] == name
        assert site.call("disable", name).returncode == 0
        assert site.json("app", name)["status"] == 0
        assert site.call("enable", name).returncode == 0
        wait_for(lambda: "hello" in site.call("logs", name).stdout, "its output")
    finally:
        with contextlib.suppress(AppMeshError):
            site.clients["node-a"].delete_app(name)


def test_what_an_app_prints_does_not_steer_a_terminal(site: Site, tmp_path: Path) -> None:
    site.clients["node-b"].add_app(
        App({"name": "wild", "command": "printf '\\033]0;owned\\007\\t1\\n'; exec sleep 600", "shell": True})
    )
    try:
        wait_for(lambda: site.call("logs", "wild").stdout == "\x1b]0;owned\x07\t1\n", "its output, as it is in a pipe")
        for raw, shown in (([], r"\x1b]0;owned\x07"), (["--raw"], "\x1b]0;owned\x07")):
            with terminal(meshbridge_command("logs", "wild", *raw), tmp_path, on_a_terminal(site)) as screen:
                wait_for(lambda: screen.process.poll() is not None, "its end")
                wait_for(lambda: shown in screen.screen, shown)  # noqa: B023 as above
    finally:
        site.clients["node-b"].delete_app("wild")


def test_no_command_shows_what_would_steer_a_terminal(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshbridge.emulator.definitions.NAME", re.compile(r".+", re.DOTALL))
    name = "w\x1b[31m\u202ex\x9b\u2066"
    command = "echo hello; exec sleep 600"
    site.clients["node-a"].add_app(App({"name": name, "command": command, "shell": True, "description": name}))
    try:
        for words in (["apps"], ["apps", "--runs"], ["app", name], ["disable", name], ["enable", name], ["logs", "w"]):
            done = site.call(*words)
            shown = (done.stdout + done.stderr).replace("\n", "")
            assert shown.isprintable(), (words, shown)
            assert r"[31m\u202ex" in shown, words
        for words in (["top", "--once"], ["exec", "--daemon", name, "id"], ["tail", "--daemon", name]):
            done = site.call(*words)
            assert (done.stdout + done.stderr).replace("\n", "").isprintable(), words
    finally:
        site.clients["node-a"].delete_app(name)


@pytest.mark.parametrize("command", ["app", "enable", "disable", "logs"])
def test_an_app_that_is_not_there_or_on_two_daemons(site: Site, command: str) -> None:
    unknown = site.call(command, "webb")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == ("meshbridge: there is no app 'webb': did you mean web? (there are: db, idle, web)\n")
    elsewhere = site.call(command, "db", "--daemon", "node-b")
    assert elsewhere.stderr == "meshbridge: there is no app 'db' on node-b (there are: idle, web)\n"
    both = site.call(command, "web")
    assert both.returncode == 2
    assert both.stderr == "meshbridge: web is on node-a, node-b: say which with --daemon\n"


def test_apps_are_disabled_and_enabled(site: Site) -> None:
    done = site.call("disable", "db")
    assert (done.returncode, done.stdout) == (0, "node-a: db is disabled\n")
    assert site.clients["node-a"].get_app("db").status == 0
    assert site.json("enable", "db") == [{"daemon": "node-a", "app": "db", "enabled": True}]
    assert site.clients["node-a"].get_app("db").status == 1
    mixed = site.call("disable", "db", "nothing")
    assert mixed.returncode == 1
    assert site.clients["node-a"].get_app("db").status == 1  # not the one without the other
    wait_for(lambda: site.clients["node-a"].get_app("db").pid, "db to run again")


def test_top_sorts(site: Site) -> None:
    found = site.json("top", "--sort", "memory")
    memory = [one.get("memory", 0) for one in found]
    assert memory == sorted(memory, reverse=True)
    assert [one["name"] for one in site.json("top", "--sort", "name", "--count", "2")] == ["db", "idle"]
    done = site.call("top")  # no terminal: one look
    assert done.returncode == 0
    assert done.stdout.startswith("DAEMON  APP   STATE")
    wrong = site.call("top", "--sort", "size")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "meshbridge: --sort: not 'size' but one of cpu, memory, starts, name\n",
    )


# --- logs ----------------------------------------------------------------------------------------------------------


def test_logs_of_the_present_process(site: Site) -> None:
    done = site.call("logs", "web", "-d", "node-a")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")
    assert site.json("logs", "web", "-d", "node-a") == {
        "daemon": "node-a",
        "app": "web",
        "position": 0,
        "output": "ready\n",
    }
    assert site.call("logs", "web", "-d", "node-a", "--position", "3").stdout == "dy\n"
    older = site.call("logs", "web", "-d", "node-a", "--previous", "1")
    assert older.returncode == 1
    assert "node-a does not keep that output of web" in older.stderr


def test_logs_are_followed_over_a_restart_without_a_gap(site: Site, tmp_path: Path) -> None:
    """What the old process wrote last is there, whichever was quicker; and nothing is there twice."""
    gate, counter = tmp_path / "gate", tmp_path / "count"
    command = (
        f"n=$(cat {counter} 2>/dev/null || echo 0); n=$((n+1)); echo $n > {counter}; "
        f"for i in 1 2 3; do echo $n-$i; done; while [ ! -e {gate}-$n ]; do sleep 0.05; done; echo $n-last"
    )
    app = {"name": "again", "command": command, "shell": True, "stdout_cache_num": 3, "behavior": {"exit": "restart"}}
    client = site.clients["node-a"]
    client.add_app(App(app))
    try:
        with Process(meshbridge_command("logs", "-f", "again"), tmp_path / "log", site.environ) as followed:
            followed.wait_for_output("1-3\n")
            (tmp_path / "gate-1").touch()
            followed.wait_for_output("2-3\n")
            (tmp_path / "gate-2").touch()
            followed.wait_for_output("3-3\n")
            assert followed.end(signal.SIGINT) == 0
            assert followed.output().split() == [
                *("1-1", "1-2", "1-3", "1-last"),
                *("2-1", "2-2", "2-3", "2-last"),
                *("3-1", "3-2", "3-3"),
            ]
        previous = site.call("logs", "again", "--previous", "1")
        assert previous.stdout.split() == ["2-1", "2-2", "2-3", "2-last"]
    finally:
        client.delete_app("again")


# --- exec ----------------------------------------------------------------------------------------------------------


def runs(site: Site, daemon: str) -> list[str]:
    return [str(app.name) for app in site.clients[daemon].list_apps() if app.status == 2]


def test_a_command_runs_once(site: Site) -> None:
    done = site.call("exec", "-d", "node-a", "echo one; echo two >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "one\ntwo\n", "")
    assert runs(site, "node-a") == []  # and is forgotten
    several = site.call("exec", "-d", "node-a", "printf", "%s|", "--json", "a b", "$HOME", "c'd")
    assert (several.returncode, several.stdout) == (0, "--json|a b|$HOME|c'd|")


def test_a_command_runs_once_for_a_script(site: Site) -> None:
    done = site.call("exec", "-d", "node-b", "--json", "echo hello; exit 3")
    *pieces, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 3
    assert "".join(piece["output"] for piece in pieces) == "hello\n"
    assert {piece["daemon"] for piece in (*pieces, last)} == {"node-b"}
    assert (last["exit_code"], last["finished"]) == (3, True)


def test_an_app_runs_once(site: Site) -> None:
    app = {"name": "job", "command": "echo worked; exit 4", "shell": True, "status": 0}
    site.clients["node-b"].add_app(App(app))
    try:
        done = site.call("exec", "--app", "job")
        assert (done.returncode, done.stdout) == (4, "worked\n")
        assert site.call("exec", "--app", "job", "now").returncode == 2
    finally:
        site.clients["node-b"].delete_app("job")


def test_a_run_is_left_to_itself(site: Site) -> None:
    done = site.call("exec", "-d", "node-b", "--detach", "exec sleep 600")
    (name,) = runs(site, "node-b")
    assert (done.returncode, done.stdout) == (0, f"node-b: {name}\n")
    site.clients["node-b"].delete_app(name)


def test_a_run_needs_a_daemon_and_a_time_that_is_one(site: Site) -> None:
    done = site.call("exec", "true")
    assert done.returncode == 2
    assert done.stderr == "meshbridge: there are several daemons (node-a, node-b): say which with --daemon\n"
    done = site.call("exec", "-d", "node-a", "--max-time", "soon", "true")
    assert done.returncode == 2
    assert done.stderr.startswith("meshbridge: --max-time: not a duration: 'soon' (use ")
    done = site.call("exec", "-d", "node-a", "--max-time", "1s", "exec sleep 600")
    assert done.returncode == 9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_ends_with_the_command(site: Site, tmp_path: Path, number: signal.Signals) -> None:
    command = meshbridge_command("exec", "-d", "node-a", "echo begun; exec sleep 600")
    with Process(command, tmp_path / "log", site.environ) as process:
        process.wait_for_output("begun\n")
        (name,) = runs(site, "node-a")
        assert process.end(number) == 128 + number
        assert process.output() == f"begun\nmeshbridge: run {name} was ended: {number.name}\n"
        assert runs(site, "node-a") == []


def test_a_run_outlives_the_bridge(site: Site, tmp_path: Path) -> None:
    """Nothing is missing of what it wrote, and nothing is there twice."""
    script = f"for n in 1 2 3; do echo line $n; while [ ! -e {tmp_path}/$n ]; do sleep 0.05; done; done; exit 5"
    with Process(meshbridge_command("exec", "-d", "node-a", script), tmp_path / "log", site.environ) as process:
        process.wait_for_output("line 1\n")
        site.restart()
        (tmp_path / "1").touch()
        process.wait_for_output("line 2\n")
        (tmp_path / "2").touch()
        process.wait_for_output("line 3\n")
        (tmp_path / "3").touch()
        assert process.popen.wait(30) == 5
        said = process.output().splitlines()
        assert [line for line in said if line.startswith("line")] == ["line 1", "line 2", "line 3"]
        assert "meshbridge: the bridge is gone: waiting for it" in said


def test_run_is_not_for_commands(site: Site) -> None:
    done = site.call("run", "web-1", "a b")
    assert done.returncode == 2
    assert "`meshbridge exec web-1 'a b'`" in done.stderr


# --- completion ----------------------------------------------------------------------------------------------------


def completed(environ: dict[str, str], line: str) -> list[str]:
    """What bash offers that may stand in the place of the last word (the scripts: test_deploy_completion)."""
    asked = {"_MESHBRIDGE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = run_command(env=environ | asked)
    assert done.stderr == ""
    return done.stdout.split()


def test_names_are_completed_with_what_runs(site: Site) -> None:
    assert completed(site.environ, "meshbridge logs ") == ["db", "idle", "web"]
    assert completed(site.environ, "meshbridge app -d node-a w") == ["web"]
    assert completed(site.environ, "meshbridge enable db i") == ["idle"]
    assert completed(site.environ, "meshbridge enable db d") == []  # it is there already
    assert completed(site.environ, "meshbridge tail --daemon n") == ["node-a", "node-b"]
    assert completed(site.environ, "meshbridge tail -e s") == ["start", "stdout", "status"]
    assert completed(site.environ, "meshbridge top --sort m") == ["memory"]


def test_nothing_is_completed_where_nobody_runs(tmp_path: Path) -> None:
    absent = {**os.environ, "MESHBRIDGE_JOURNAL__PATH": str(tmp_path / "none")}
    assert completed(absent, "meshbridge logs ") == []
    assert completed(absent | {"MESHBRIDGE_CONFIG": str(tmp_path / "none.yaml")}, "meshbridge logs ") == []


# --- on a terminal -------------------------------------------------------------------------------------------------


def on_a_terminal(site: Site) -> dict[str, str]:
    return {key: value for key, value in site.environ.items() if key != "COLUMNS"} | {"TERM": "xterm-256color"}


def test_a_table_is_coloured_for_a_person(site: Site, tmp_path: Path) -> None:
    with terminal(meshbridge_command("apps", "-d", "node-b"), tmp_path, on_a_terminal(site)) as shown:
        assert shown.wait_for_end() == 0
        shown.wait_to_see("idle")
        shown.wait_to_see("\x1b[32mrunning")
        shown.wait_to_see("\x1b[90mdisabled")


def test_top_watches_until_it_is_told_to_end(site: Site, tmp_path: Path) -> None:
    command = meshbridge_command("top", "--interval", "0.2")
    with terminal(command, tmp_path, on_a_terminal(site)) as shown:
        shown.wait_to_see("4 apps: 3 running, 1 disabled")
        shown.wait_to_see("\x1b[7mcpu")
        shown.type("m")
        shown.wait_to_see("\x1b[7mmemory")
        site.clients["node-b"].enable_app("idle")
        shown.wait_to_see("4 apps: 4 running")
        site.clients["node-b"].disable_app("idle")
        shown.wait_to_see("3 running")
        shown.type("q")
        assert shown.wait_for_end() == 0
        shown.wait_to_see("\x1b[?1049l")  # back on the screen that was there before


@pytest.mark.parametrize(("key", "code"), [("\x03", 0), (None, 128 + signal.SIGTERM)])
def test_top_leaves_the_terminal_as_it_was(site: Site, tmp_path: Path, key: str | None, code: int) -> None:
    """After Ctrl-C and SIGTERM, too: a shell that goes on there has its line, its cursor and its echo."""
    command = ["sh", "-c", 'trap : INT; "$@"; echo code $?; stty -a; echo over', "sh", *meshbridge_command("top")]
    with terminal(command, tmp_path, on_a_terminal(site)) as shown:
        shown.wait_to_see("APP")
        if key is None:
            (child,) = children(shown.process.pid)
            os.kill(child, signal.SIGTERM)
        else:
            shown.type(key)
        shown.wait_to_see("over\r\n")
        after = shown.screen.rpartition("\x1b[?1049l")[2]
        assert f"code {code}" in after
        assert " echo " in after
        assert "\x1b[?25h" in shown.screen  # the cursor
        assert "Traceback" not in shown.screen


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def test_top_waits_for_a_bridge_that_is_gone(site: Site, tmp_path: Path) -> None:
    hidden = site.directory / "control.sock.hidden"
    with terminal(meshbridge_command("top", "--interval", "0.2"), tmp_path, on_a_terminal(site)) as shown:
        shown.wait_to_see("4 apps")
        (site.directory / "control.sock").rename(hidden)
        try:
            shown.wait_to_see("the bridge is gone: waiting for it")
        finally:
            hidden.rename(site.directory / "control.sock")
        wait_for(lambda: "gone" not in shown.screen.rpartition("sort:")[2], "it is back")
        shown.type("q")
        assert shown.wait_for_end() == 0


# --- what goes wrong -----------------------------------------------------------------------------------------------


def test_nobody_reads_on(site: Site) -> None:
    for words in ("apps --json", "app db", "logs -f web -d node-a", "exec -d node-a yes"):
        pipe = f"set -o pipefail; {shlex.join(meshbridge_command(*words.split()))} | head -c 1"
        done = subprocess.run(
            ["bash", "-c", pipe], capture_output=True, text=True, timeout=120, env=site.environ, check=False
        )
        assert len(done.stdout) == 1
        assert "Traceback" not in done.stderr
        assert "Exception" not in done.stderr
    assert runs(site, "node-a") == []


def test_a_full_disk(site: Site) -> None:
    for words in (["apps"], ["logs", "web", "-d", "node-a"]):
        with Path("/dev/full").open("w", encoding="ascii") as full:
            done = subprocess.run(
                meshbridge_command(*words),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                env=site.environ,
                check=False,
            )
        assert (done.returncode, done.stderr) == (1, "meshbridge: cannot write: No space left on device\n")


@pytest.mark.parametrize(
    "command",
    [["apps"], ["app", "x"], ["logs", "x"], ["exec", "x"], ["enable", "x"], ["top"], ["tail"]],
)
def test_no_bridge_runs(tmp_path: Path, command: list[str]) -> None:
    environ = {**os.environ, "MESHBRIDGE_JOURNAL__PATH": str(tmp_path / "none")}
    done = run_command(*command, env=environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"meshbridge: no bridge runs on the journal {tmp_path}/none: start one with `meshbridge run`, or give --config "
        "(or MESHBRIDGE_CONFIG) of the one that runs\n"
    )


def test_the_journals_place_is_read_from_the_file(site: Site, tmp_path: Path) -> None:
    """Of a file that is being mended, too: nothing else of it is looked at."""
    config = write_config(tmp_path / "m.yaml", {"journal": {"path": str(site.directory)}, "sinks": {"half": {}}})
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MESHBRIDGE_")}
    done = run_command("apps", "--json", "--config", str(config), env=environ)
    assert len(json.loads(done.stdout)) == 4
    config.write_text("journal: [\n")
    done = run_command("apps", "--json", "--config", str(config), env=environ)
    assert done.returncode == 2
    assert f"cannot read the configuration: {config}: no YAML" in done.stderr


def test_a_daemon_that_is_down_does_not_hide_the_others(tmp_path: Path, site: Site) -> None:
    journal = Journal(JournalOptions(path=tmp_path / "journal"))
    journal.open()
    login = {"username": "admin", "password": "admin123"}
    dead = Link("dead", DaemonOptions.model_validate({"url": f"tcp://127.0.0.1:{free_port()}"} | login), journal)
    control = ControlSocket(tmp_path / "journal", Api(lambda: application_for([dead], journal)))
    control.start()
    try:
        other = Site(tmp_path / "journal", {}, lambda: None)
        done = other.call("apps")
        assert done.returncode == 1
        assert done.stdout.startswith("DAEMON")
        assert done.stderr.startswith("meshbridge: dead: cannot connect to 127.0.0.1:")
        assert other.json("apps", code=1) == []
    finally:
        control.stop(5)
        journal.close()


_AS_NOBODY = """
import contextlib, io, os
from meshbridge.cli import app, main
with contextlib.redirect_stdout(io.StringIO()):
    app(["apps"], standalone_mode=False)  # so that all is imported: such a user may not read the code here
os.setgroups([]), os.setgid(65534), os.setuid(65534)
main()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_a_user_who_may_not_is_told_who_may(site: Site) -> None:
    site.directory.chmod(0o700)
    command = [sys.executable, "-c", _AS_NOBODY, "apps"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=site.environ, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"meshbridge: only user root may use the control socket in {site.directory}: try `sudo -u root meshbridge …`\n"
    )
