"""A whole bridge with an honest daemon and an honest sink, beside whatever is hostile."""

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshbridge.emulator import Emulator, EmulatorOptions
from tests.support import Process, free_port, meshbridge_command, wait_for, write_config

__all__ = ["Stage", "running"]


@dataclass
class Stage:
    """A running bridge with its daemons; ``exporter`` is the base of its URLs."""

    honest: Emulator
    bridge: Process
    events_file: Path
    exporter: str
    hostile: dict[str, Any] = field(default_factory=dict)
    """The hostile daemons, by name."""

    def events(self) -> list[dict[str, Any]]:
        """What has come through."""
        if not self.events_file.exists():
            return []
        return [json.loads(line) for line in self.events_file.read_text().splitlines()]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.exporter + path, timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def honest_event_arrives(self, mark: str) -> None:
        self.honest.emit("marker", "EXIT", {"pid": 1, "exit_code": 1, "last_error": mark})
        wait_for(
            lambda: any(one["data"] and one["data"].get("last_error") == mark for one in self.events()),
            f"the honest event {mark}: {self.bridge.output()[-3000:]}",
        )

    def resident_mib(self) -> float:
        for line in Path(f"/proc/{self.bridge.popen.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("the bridge has ended")

    def runs_undisturbed(self) -> None:
        """Ready, with every thread, and no fault of its own in the log."""
        assert json.loads(self.get("/-/ready"))["ready"] is True
        assert "thread failed" not in self.bridge.output()
        assert "Traceback" not in self.bridge.output()


@contextlib.contextmanager
def running(directory: Path, daemons: dict[str, Any], sinks: dict[str, Any]) -> Iterator[Stage]:
    """A bridge for these and the honest ones, ready."""
    directory.chmod(0o700)
    with contextlib.ExitStack() as stack:
        honest = stack.enter_context(Emulator(EmulatorOptions(wss_port=None, https_port=None)))
        assert honest.tcp_address is not None
        port = free_port()
        events_file = directory / "events.jsonl"
        settings = {
            "daemons": daemons
            | {
                "honest": {
                    "url": f"tcp://127.0.0.1:{honest.tcp_address[1]}",
                    "username": "admin",
                    "password": "admin123",
                    "tls": {"ca_file": str(honest.ca_file)},
                }
            },
            "journal": {"path": str(directory / "journal")},
            "sinks": sinks | {"file": {"type": "file", "path": str(events_file)}},
            "exporter": {"listen": f"127.0.0.1:{port}"},
        }
        config = write_config(directory / "meshbridge.yaml", settings)
        bridge = stack.enter_context(
            Process(meshbridge_command("run", "--config", str(config)), directory / "bridge.log")
        )
        found = Stage(honest, bridge, events_file, f"http://127.0.0.1:{port}")
        bridge.wait_for_output("meshbridge started")
        wait_for(lambda: 'meshbridge_daemon_up{daemon="honest"} 1' in found.get("/metrics"), "the honest daemon")
        yield found
