"""``python -m tools.cli`` runs the examples of ``cli.md``, and writes what has come of those that came out otherwise.

The examples are the blocks ``console``: each line that begins with ``$`` is run by a shell, from the top of the page to
its end, beside a bridge with one emulated daemon. What stands there is compared with what comes, all that is of the
moment (figures, times, random names) left out. A block ``console until TEXT`` is of a command that runs until it is
ended: that is once it has printed TEXT, and it has to have printed the lines that are shown.
"""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

import meshbridge
from meshbridge.admin.client import Client
from meshbridge.appmesh import App, AppMeshClientTCP
from meshbridge.emulator import Emulator, EmulatorOptions

__all__ = ["PAGE", "Example", "examples", "masked", "site", "updated"]

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
_BLOCK = re.compile(r"^```console(?: until (?P<until>[^\n]+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_SECONDS = 60.0  # for anything to happen

_APPS = (
    {"name": "web", "command": "echo listening on port 8080; exec sleep 600", "shell": True, "owner": "admin"},
    {"name": "db", "command": "echo ready; exec sleep 600", "shell": True, "description": "the shop's database"},
    {"name": "import", "command": "echo 3 orders imported; exit 3", "shell": True, "status": 0},
)


@dataclass(frozen=True)
class Example:
    """One command of a block, and what is shown of its output."""

    command: str
    output: str
    until: str | None
    line: int


def examples(page: str) -> list[Example]:
    """All of them, in order."""
    found = []
    for block in _BLOCK.finditer(page):
        line = page.count("\n", 0, block.start("text")) + 1
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block["text"], re.MULTILINE):
            found.append(Example(command, output, block["until"], line))
    return found


def masked(text: str) -> list[str]:
    """The lines of ``text`` without what differs from run to run."""
    for pattern, mask in (
        (r"\x1b\[[0-9;]*m", ""),
        (r"\b\d{4}-\d\d-\d\d (?=\d\d:)", ""),  # the day is left out where it is today
        (r"\b[0-9a-f]{64}\b", "<sha256>"),
        (r"\bmbt_[\w-]{43}", "<token>"),
        (r"\bmeshbridge-emulator-\w+", "<folder>"),
        (r"\b[A-Za-z0-9]{11}\b", "<name>"),
        (r"\b(\d+[dhms] ?)+(?=\s|$|,)", "<age> "),
        (r"[\d,.]*\d ([KMGT]i)?B\b", "<size>"),
        (r"\d+([.:-]\d+)*", "0"),
        (r"[ \t]+", " "),
    ):
        text = re.sub(pattern, mask, text)
    return [line.strip() for line in text.splitlines()]


def updated(page: str, run: Callable[[Example], str]) -> str:
    """The page with what has come, where that is not what it shows."""
    for example in examples(page):
        came = run(example)
        fine = masked(came) == masked(example.output) or (
            example.until is not None and set(masked(example.output)) <= set(masked(came)) and example.output
        )
        if not fine:
            before = f"$ {example.command}\n"
            came = came if example.until is None else _up_to(came, example.until)
            page = page.replace(before + example.output, before + came, 1)
    return page


def _up_to(text: str, until: str) -> str:
    """Its lines, to the first that has ``until``."""
    before, found, after = text.partition(until)
    return before + found + after.partition("\n")[0] + "\n"


# --- the bridge that they are run beside ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """A folder with a configuration and a bridge's log. ``shown`` are words that the page has in other words."""

    folder: Path
    shown: dict[str, str]

    def run(self, example: Example) -> str:
        """What the command prints, on standard output and standard error."""
        log = self.folder / "output"
        _wait(self.is_quiet)
        if example.command == "meshbridge run":
            log = self.folder / "run.log"
        else:
            process = self.start(example.command, log)
            if example.until is not None:
                text = example.until
                _wait(lambda: text in log.read_text(errors="replace") or process.poll() is not None)
                os.killpg(process.pid, signal.SIGINT)
            process.wait(_SECONDS)
        printed = log.read_text(encoding="utf-8", errors="replace")
        for real, shown in self.shown.items():
            printed = printed.replace(real, shown)
        return re.sub(r"\x1b\[[0-9;]*m", "", printed)

    def start(self, command: str, log: Path) -> subprocess.Popen[bytes]:
        environ = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(meshbridge.__file__).parents[1]),
            "HOME": str(self.folder),
            "MESHBRIDGE_CONFIG": str(self.folder / "meshbridge.yaml"),
            "COLUMNS": "120",
            "TZ": "UTC",
            "LC_ALL": "C.UTF-8",
        }
        with log.open("wb") as output:
            return subprocess.Popen(
                ["/bin/bash", "-c", f"exec {command}" if command == "meshbridge run" else command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=environ,
                start_new_session=True,
            )

    def is_quiet(self) -> bool:
        """All is delivered, or refused."""
        found = {sink["sink"]: sink for sink in Client(self.folder / "journal").get("/api/v1/bridge/sinks")}
        return found["shop"]["failed"] > 0 and not any(sink["lag_events"] for sink in found.values())


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """A daemon with three apps, and a bridge that has delivered all there is, but for what the hook refuses."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshbridge-cli-")))
        hook = stack.enter_context(_serving())
        daemon = stack.enter_context(Emulator(EmulatorOptions(https_port=None, wss_port=None, node_name="node-a")))
        assert daemon.tcp_address is not None
        exporter = _free_port()
        _write(folder, daemon, exporter, hook)
        ports = {exporter: 9665, hook: 8000, daemon.tcp_address[1]: 6059}
        shown = {
            str(folder / "meshbridge.yaml"): "/etc/meshbridge/meshbridge.yaml",
            str(folder / "journal"): "/var/lib/meshbridge",
            f"{folder}/": "/var/log/",
            str(daemon.ca_file): "/opt/appmesh/ssl/ca.pem",
        }
        found = Site(folder, shown | {f"127.0.0.1:{port}": f"127.0.0.1:{usual}" for port, usual in ports.items()})
        bridge = found.start("meshbridge run", folder / "run.log")
        stack.callback(bridge.wait, _SECONDS)
        stack.callback(bridge.terminate)
        _wait(lambda: "daemon connected" in (folder / "run.log").read_text())
        client = stack.enter_context(contextlib.closing(AppMeshClientTCP(daemon.tcp_address, str(daemon.ca_file))))
        client.login("admin", "admin123")
        for app in _APPS:
            client.add_app(App(app))
        client.run_app_sync(App({"name": "import"}), 30)
        _wait(found.is_quiet)
        yield found


def _write(folder: Path, daemon: Emulator, exporter: int, hook: int) -> None:
    """The configuration, and a folder for PATH."""
    assert daemon.tcp_address is not None
    when = {"events": ["EXIT"], "apps": ["import*"]}
    settings = {
        "daemons": {
            "node-a": {
                "url": "tcp://{}:{}".format(*daemon.tcp_address),
                "username": "admin",
                "password": "admin123",
                "tls": {"ca_file": str(daemon.ca_file)},
            }
        },
        "journal": {"path": str(folder / "journal"), "max_bytes": "64MiB"},  # which any disk has
        "sinks": {
            "log": {"type": "file", "path": str(folder / "events.jsonl")},
            "shop": {"type": "webhook", "url": f"http://127.0.0.1:{hook}/events", "when": when},
        },
        "exporter": {"listen": f"127.0.0.1:{exporter}"},
    }
    config = folder / "meshbridge.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    config.chmod(0o600)
    program = folder / "bin" / "meshbridge"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m meshbridge "$@"\n', encoding="ascii")
    program.chmod(0o755)


class _Hook(BaseHTTPRequestHandler):
    """Takes no event."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = b"no such order"
        self.send_response(422)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 as the library calls it
        pass


@contextlib.contextmanager
def _serving() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hook) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {_SECONDS:.0f} s: {condition}")
        time.sleep(0.02)


if __name__ == "__main__":
    with site() as here:
        PAGE.write_text(updated(PAGE.read_text(encoding="utf-8"), here.run), encoding="utf-8")
