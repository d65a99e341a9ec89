"""The emulator as a process: what it says, what outlives it, and that nothing is left of its apps."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshbridge.emulator import Emulator, EmulatorError, EmulatorOptions, emulate
from tests.support import wait_for
from tests.unit.emulator.wire_client import TcpClient

# A first process that is a shell, a child of it, and one that has left the process group.
FAMILY = "sleep 301 & setsid sleep 302 & sleep 303"


class Program:
    """``python -m meshbridge.emulator``, until it is killed."""

    def __init__(self, temporary: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "meshbridge.emulator", *arguments]
        environment = {**os.environ, "TMPDIR": str(temporary)}
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.popen.stdout is not None
        facts = json.loads(self.popen.stdout.readline())
        assert facts["ready"] is True
        self.tcp = (facts["tcp"][0], facts["tcp"][1])
        self.ca_file = Path(facts["ca_file"])

    def client(self) -> TcpClient:
        client = TcpClient(self.tcp, self.ca_file)
        client.login()
        return client

    def end(self, number: signal.Signals) -> int:
        self.popen.send_signal(number)
        code = self.popen.wait(30)
        assert self.popen.stdout is not None
        self.popen.stdout.close()
        return code


@contextmanager
def program(temporary: Path, *arguments: str) -> Iterator[Program]:
    running = Program(temporary, *arguments, "--wss-port", "-1", "--https-port", "-1")
    try:
        yield running
    finally:
        if running.popen.poll() is None:
            running.end(signal.SIGKILL)


def family_of(directory: Path) -> list[int]:
    """Processes that work in the emulator's directory; a zombie works nowhere."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(directory):
                found.append(int(entry.name))
    return found


def children() -> set[int]:
    """This process's children, zombies too."""
    threads = Path("/proc/self/task").iterdir()
    return {int(pid) for thread in threads for pid in (thread / "children").read_text().split()}


def test_a_daemon_killed_and_started_again_is_the_same_daemon(tmp_path: Path) -> None:
    with program(tmp_path, "--data-dir", str(tmp_path / "daemon")) as first, first.client() as client:
        ca = first.ca_file.read_bytes()
        client.add_app("keep", "sleep 300", description="kept")
        client.add_app("off", "sleep 300", status=0)
        client.add_app("gone", "true")
        client.json("DELETE", "/appmesh/app/gone")
        client.json("PUT", "/appmesh/label/zone", value="a")
        client.json("PUT", "/appmesh/user/operator", {"key": "secret", "roles": ["view"], "group": "user"})
        client.json("POST", "/appmesh/role/watch", ["app-view"])
        before = client.json("GET", "/appmesh/app/keep")
        started = client.json("GET", "/appmesh/resources")["appmesh_start_time_unix_seconds"]
        token = client.token
        first.end(signal.SIGKILL)
    again = "--data-dir", str(tmp_path / "daemon"), "--tcp-port", str(first.tcp[1])
    with program(tmp_path, *again) as second, second.client() as client:
        assert second.ca_file.read_bytes() == ca
        after = client.json("GET", "/appmesh/app/keep")
        kept = {"register_time", "description", "owner", "status", "command"}
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
        assert (after["starts"], after["health"]) == (1, 0)
        assert [app["name"] for app in client.json("GET", "/appmesh/applications")] == ["off", "keep"]
        assert client.json("GET", "/appmesh/labels")["zone"] == "a"
        assert client.json("GET", "/appmesh/roles")["watch"] == ["app-view"]
        assert client.json("GET", "/appmesh/resources")["appmesh_start_time_unix_seconds"] > started
        client.token = token  # of the run before: the key is the same
        assert client.request("GET", "/appmesh/applications").http_status == 200
        with TcpClient(second.tcp, second.ca_file) as operator:
            assert operator.login("operator", "secret").http_status == 200


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_of_the_apps_however_the_emulator_ends(tmp_path: Path, number: signal.Signals) -> None:
    with program(tmp_path) as running, running.client() as client:
        client.add_app("family", FAMILY, shell=True)
        client.json("POST", "/appmesh/app/run", {"command": FAMILY, "shell": True})
        wait_for(lambda: len(family_of(tmp_path)) >= 8, "both families run")
        code = running.end(number)
    wait_for(lambda: not family_of(tmp_path), "nothing of them is left")
    wait_for(lambda: not list(tmp_path.iterdir()), "its temporary directory is gone")
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)


def test_stop_leaves_no_process_no_zombie_and_no_directory() -> None:
    before, threads = children(), set(threading.enumerate())
    emulator = Emulator()
    emulator.start()
    directory = emulator.ca_file.parents[1]
    with TcpClient(emulator.tcp_address, emulator.ca_file) as client:
        client.login()
        client.add_app("family", FAMILY, shell=True)
        wait_for(lambda: len(family_of(directory)) >= 4, "the family runs")
        emulator.stop()
    assert not family_of(directory)
    assert not directory.exists()
    assert not children() - before
    assert not [thread for thread in set(threading.enumerate()) - threads if thread.name.startswith("emulator")]
    emulator.stop()  # once more does nothing


def test_a_stopped_emulator_starts_again_with_another_start_time(tmp_path: Path) -> None:
    for options in (EmulatorOptions(wss_port=None, https_port=None), EmulatorOptions(data_dir=tmp_path, tcp_port=None)):
        emulator = Emulator(options)
        times = []
        for _ in range(3):
            with emulator:
                times.append(emulator.start_time)
        assert times == sorted(set(times))


def test_a_disabled_app_stays_disabled_and_an_enabled_one_comes_back(tmp_path: Path) -> None:
    options = EmulatorOptions(data_dir=tmp_path, wss_port=None, https_port=None)
    with Emulator(options) as first, TcpClient(first.tcp_address, first.ca_file) as client:
        client.login()
        client.add_app("a", "sleep 300")
        client.add_app("b", "sleep 300", status=0)
        client.json("POST", "/appmesh/app/a/disable")
        client.json("POST", "/appmesh/app/b/enable")
    with Emulator(options) as second, TcpClient(second.tcp_address, second.ca_file) as client:
        client.login()
        shown = {app["name"]: (app["status"], "pid" in app) for app in client.json("GET", "/appmesh/applications")}
        assert shown == {"a": (0, False), "b": (1, True)}


def test_a_relative_directory_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = EmulatorOptions(data_dir=Path("daemon"), wss_port=None, https_port=None)
    with Emulator(options) as emulator, TcpClient(emulator.tcp_address, emulator.ca_file) as client:
        client.login()
        client.subscribe()
        client.add_app("web", "exit 7", shell=True)
        assert client.wait_type("web", "EXIT")["data"]["exit_code"] == 7


def test_listeners_can_be_left_off() -> None:
    with Emulator(EmulatorOptions(tcp_port=None, wss_port=None)) as emulator:
        assert (emulator.tcp_address, emulator.wss_address) == (None, None)
        assert emulator.https_address is not None


def test_a_taken_port_is_one_clear_line() -> None:
    with Emulator() as emulator:
        assert emulator.tcp_address is not None
        port = emulator.tcp_address[1]
        with pytest.raises(EmulatorError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            Emulator(EmulatorOptions(tcp_port=port)).start()
        taken = subprocess.run(
            [sys.executable, "-m", "meshbridge.emulator", "--tcp-port", str(port)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (taken.returncode, taken.stdout) == (1, "")
    assert taken.stderr == f"cannot listen on 127.0.0.1 port {port}: Address already in use\n"


@pytest.mark.parametrize("library", ["trustme", "websockets"])
def test_a_missing_library_is_one_clear_line(library: str) -> None:
    program = "from meshbridge.emulator.__main__ import main; sys.exit(main([]))"
    hide = f"import sys; sys.modules[{library!r}] = None; {program}"
    ended = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.count("\n") == 1
    assert "meshbridge[demo]" in ended.stderr


def test_a_failed_start_leaves_no_listener_open(tmp_path: Path) -> None:
    with Emulator() as emulator:
        assert emulator.wss_address is not None
        failing = Emulator(EmulatorOptions(data_dir=tmp_path, wss_port=emulator.wss_address[1]))
        with pytest.raises(EmulatorError):
            failing.start()
        with pytest.raises(EmulatorError, match="does not run"):
            failing.drop_connections()
    failing.start()
    failing.stop()


def test_another_host_than_loopback_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with Emulator(EmulatorOptions(host="0.0.0.0", wss_port=None, https_port=None)):
        pass
    assert "not on loopback only" in caplog.text
    caplog.clear()
    with Emulator(EmulatorOptions(host="localhost", wss_port=None, https_port=None)):
        pass
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (EmulatorOptions(), ("admin / admin123", "/appmesh/login")),
        (
            EmulatorOptions(generation="3"),
            ("admin@appmesh.local / admin123", "http://127.0.0.1:6062/auth", "/auth/token"),
        ),
    ],
    ids=["2.x", "3.x"],
)
def test_emulate_runs_until_a_signal_and_says_how_to_try_it(
    capsys: pytest.CaptureFixture[str], options: EmulatorOptions, parts: tuple[str, ...]
) -> None:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    emulate(options)
    timer.join()
    said = capsys.readouterr().out
    for part in ("tcp://127.0.0.1:", "wss://127.0.0.1:", "ca.pem", "curl --cacert", *parts):
        assert part in said
