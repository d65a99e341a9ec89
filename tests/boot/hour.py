"""The operator's first hour, step by step. Each step asserts what the operator sees."""

import re
import time
from collections.abc import Callable

import yaml

from meshbridge.emulator import Emulator
from tests.boot.machine import Machine
from tests.support import free_port

_CONFIG = "/etc/meshbridge/meshbridge.yaml"
_BLUE = "/etc/meshbridge/blue.yaml"


def port_of(daemon: Emulator) -> int:
    """Of its TCP listener."""
    assert daemon.tcp_address is not None
    return int(daemon.tcp_address[1])


class Hour:
    """One pass over a machine, with an emulated daemon on loopback."""

    def __init__(self, machine: Machine, package: str, daemon: Emulator) -> None:
        self.machine = machine
        self.run = machine.run
        self._package = package
        self._daemon = daemon
        self._broker = free_port()
        self._exporters = {"meshbridge": free_port(), "blue": free_port()}

    def steps(self) -> list[Callable[[], None]]:
        return [
            self.install, self.edit, self.check, self.start, self.status, self.log_priorities, self.group_member,
            self.reload_bad, self.reload_good, self.rotate_secret, self.watchdog, self.kill, self.taken_port,
            self.two_instances, self.logrotate, self.upgrade, self.missing_credentials, self.stop,
            self.remove_and_purge,
        ]  # fmt: skip

    def install(self) -> None:
        """Nothing runs before the file is edited; program and manual page are found."""
        self.run("apt-get", "install", "--yes", self._package)
        assert self._active() == "inactive"
        assert self.run("meshbridge", "version").stdout.strip()
        assert self.run("man", "-w", "meshbridge").stdout.strip().endswith("meshbridge.1.gz")
        refused = self.run("meshbridge", "check", "--offline", "--config", _CONFIG, check=False)
        assert (refused.returncode, refused.stderr) == (2, "meshbridge: daemons: is missing\n")

    def edit(self) -> None:
        self._write("/etc/mosquitto/conf.d/boot.conf", f"listener {self._broker} 127.0.0.1\nallow_anonymous true\n")
        self.run("systemctl", "restart", "mosquitto")
        self._write("/etc/meshbridge/ca.pem", self._daemon.ca_file.read_text(encoding="utf-8"))
        self._configure("meshbridge")
        self._secret("credentials", "admin123")
        self._write("/etc/meshbridge/credentials/README", "a note\n")
        self._write("/etc/meshbridge/credentials/daemons__node_a__password~", "old\n")

    def check(self) -> None:
        """Root and the bridge's user see the same, before it ever ran (but for the user of file sinks)."""
        found = self.run("meshbridge", "check", "--config", _CONFIG, check=False)
        assert found.returncode == 0, found.stdout + found.stderr
        as_user = self.run("sudo", "-u", "meshbridge", "meshbridge", "check", "--config", _CONFIG, check=False)
        assert as_user.returncode == 0, as_user.stdout + as_user.stderr

    def start(self) -> None:
        self.run("systemctl", "enable", "--now", "meshbridge")
        assert self._active() == "active"

    def status(self) -> None:
        self._status_is(r"1 of 1 daemons up, 2 of 2 sinks up")
        self._emit()
        tail = self.run(
            "timeout", "20", "meshbridge", "tail", "--config", _CONFIG, "--since", "1h", "-n", "1", check=False
        )
        assert "node-a" in tail.stdout, tail.stdout + tail.stderr

    def log_priorities(self) -> None:
        """A broker that goes away is a warning or an error in the journal, and what is usual is none."""
        self.run("systemctl", "stop", "mosquitto")
        self._wait(lambda: "broker" in self._log("warning"), "the broker's absence at priority warning")
        assert "meshbridge started" not in self._log("warning")
        self.run("systemctl", "start", "mosquitto")
        self._status_is(r"2 of 2 sinks up")

    def group_member(self) -> None:
        self.run("useradd", "--create-home", "alice")
        sinks = ("sudo", "-u", "alice", "meshbridge", "sinks", "list", "--config", _CONFIG)
        refused = self.run(*sinks, check=False)
        assert refused.returncode != 0
        self.run("adduser", "alice", "meshbridge")
        assert "broker" in self.run(*sinks).stdout

    def reload_bad(self) -> None:
        """The reload fails, the status line says why, the bridge goes on."""
        self._write(_CONFIG, "daemons: {node-a: {urll: x}}\n")
        assert self.run("meshbridge", "reload", "--config", _CONFIG, check=False).returncode == 2
        assert self.run("systemctl", "reload", "meshbridge", check=False).returncode != 0
        assert self._active() == "active"
        self._status_is("reload refused")

    def reload_good(self) -> None:
        self._configure("meshbridge", level="debug")
        self.run("systemctl", "reload", "meshbridge")
        self._wait(lambda: "refused" not in self._status(), "a status line without the refusal")

    def rotate_secret(self) -> None:
        self._secret("credentials", "wrong")
        self.run("systemctl", "restart", "meshbridge")
        self._status_is(r"0 of 1 daemons up")
        self._secret("credentials", "admin123")
        self.run("systemctl", "restart", "meshbridge")
        self._status_is(r"1 of 1 daemons up")

    def watchdog(self) -> None:
        """A bridge that stands still is started again."""
        before = self._main_process()
        self.run("systemctl", "kill", "--signal=STOP", "--kill-who=main", "meshbridge")
        self._wait(lambda: self._main_process() not in {"0", before}, "a new process", seconds=90)
        self._status_is(r"1 of 1 daemons up")

    def kill(self) -> None:
        before = self._main_process()
        self.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "meshbridge")
        self._wait(lambda: self._main_process() not in {"0", before}, "a new process")
        self._status_is(r"1 of 1 daemons up")

    def taken_port(self) -> None:
        """It is tried again, with growing waits where systemd has them, and the log says what is the matter."""
        self._configure("blue", port=self._exporters["meshbridge"])
        self._secret("blue.credentials", "admin123")
        self.run("systemctl", "start", "meshbridge@blue", check=False)
        self._wait(lambda: "in use" in self._log("err", "meshbridge@blue"), "the taken port in the log")
        self.run("systemctl", "stop", "meshbridge@blue")

    def two_instances(self) -> None:
        """A command reaches the bridge that it names, and no other."""
        self._configure("blue")
        self.run("systemctl", "reset-failed", "meshbridge@blue", check=False)
        self.run("systemctl", "start", "meshbridge@blue")
        self.run("meshbridge", "sinks", "pause", "broker", "--config", _BLUE)
        listed = self.run("meshbridge", "sinks", "list", "--config", _CONFIG).stdout
        assert "paused" not in listed
        self._configure("blue", journal="/var/lib/meshbridge")
        refused = self.run("meshbridge", "sinks", "pause", "broker", "--config", _BLUE, check=False)
        assert refused.returncode == 1
        assert _CONFIG in refused.stderr
        assert "paused" not in self.run("meshbridge", "sinks", "list", "--config", _CONFIG).stdout
        self._configure("blue")

    def logrotate(self) -> None:
        """The file that was moved away is left; a new one is begun."""
        log = self.machine.root / "var/log/meshbridge/events.jsonl"
        self._emit()
        self._wait(lambda: log.exists() and log.stat().st_size > 0, "events in the file")
        self.run("logrotate", "--force", "/etc/logrotate.d/meshbridge")
        assert log.with_name("events.jsonl.1").exists()
        self._emit()
        self._wait(lambda: log.exists() and log.stat().st_size > 0, "events in the new file")

    def upgrade(self) -> None:
        """The same package once more, which dpkg takes for an upgrade: what ran is restarted, the rest is not."""
        before = self._main_process(), self._main_process("meshbridge@blue")
        self.run("apt-get", "install", "--yes", "--reinstall", self._package)
        after = self._main_process(), self._main_process("meshbridge@blue")
        assert "0" not in after
        assert not set(before) & set(after)
        assert "node-a" in (self.machine.root / "etc/meshbridge/meshbridge.yaml").read_text(encoding="utf-8")

    def missing_credentials(self) -> None:
        """It fails once, and is not tried again."""
        self.run("systemctl", "stop", "meshbridge@blue")
        self.run("mv", "/etc/meshbridge/blue.credentials", "/etc/meshbridge/moved")
        self.run("systemctl", "start", "meshbridge@blue", check=False)
        assert self._active("meshbridge@blue") == "failed"
        assert self._property("NRestarts", "meshbridge@blue") == "0"
        self.run("mv", "/etc/meshbridge/moved", "/etc/meshbridge/blue.credentials")

    def stop(self) -> None:
        """The user of the bridge can look into its journal when it does not run; so can a command without it."""
        self.run("systemctl", "stop", "meshbridge")
        assert self._property("Result") == "success"
        stats = ("sudo", "-u", "meshbridge", "meshbridge", "journal", "stats", "--config", _CONFIG)
        assert "events" in self.run(*stats).stdout
        self.run("systemctl", "start", "meshbridge")

    def remove_and_purge(self) -> None:
        """Removing keeps the data; purging leaves nothing."""
        journal = self.machine.root / "var/lib/meshbridge/journal.db"
        self.run("apt-get", "remove", "--yes", "meshbridge")
        assert journal.exists()
        assert not (self.machine.root / "usr/lib/meshbridge").exists()
        self.run("apt-get", "purge", "--yes", "meshbridge")
        for place in ("var/lib/meshbridge", "var/log/meshbridge", "etc/meshbridge"):
            assert not (self.machine.root / place).exists(), place

    # --- what the steps have in common ---

    def _emit(self) -> None:
        self._daemon.emit("web", "STATUS", {"status": "enabled"})

    def _configure(
        self, name: str, *, level: str = "info", port: int | None = None, journal: str | None = None
    ) -> None:
        suffix = "" if name == "meshbridge" else f"-{name}"
        settings = {
            "daemons": {
                "node-a": {
                    "url": f"tcp://127.0.0.1:{port_of(self._daemon)}",
                    "username": "admin",
                    "tls": {"ca_file": "/etc/meshbridge/ca.pem"},
                }
            },
            "journal": {"path": journal or f"/var/lib/meshbridge{suffix}", "max_bytes": "64MiB"},
            "sinks": {
                "broker": {"type": "mqtt", "url": f"mqtt://127.0.0.1:{self._broker}"},
                "log": {"type": "file", "path": f"/var/log/meshbridge{suffix}/events.jsonl"},
            },
            "admin": {
                "listen": f"unix:/run/meshbridge{suffix}/admin.sock",
                "tokens": [{"name": "ops", "sha256": "0" * 64, "scopes": ["read"]}],
            },
            "exporter": {"listen": f"127.0.0.1:{port or self._exporters[name]}"},
            "log": {"level": level},
        }
        self._write(f"/etc/meshbridge/{name}.yaml", yaml.safe_dump(settings))

    def _secret(self, folder: str, password: str) -> None:
        place = f"/etc/meshbridge/{folder}"
        self.run("install", "-d", "-m", "2750", "-g", "meshbridge", place)
        self._write(f"{place}/daemons__node_a__password", f"{password}\n")
        self.run("chmod", "0640", f"{place}/daemons__node_a__password")

    def _write(self, path: str, text: str) -> None:
        (self.machine.root / path.removeprefix("/")).write_text(text, encoding="utf-8")

    def _property(self, name: str, unit: str = "meshbridge") -> str:
        return self.run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()

    def _active(self, unit: str = "meshbridge") -> str:
        return self._property("ActiveState", unit)

    def _main_process(self, unit: str = "meshbridge") -> str:
        return self._property("MainPID", unit)

    def _status(self) -> str:
        return self._property("StatusText")

    def _status_is(self, pattern: str) -> None:
        self._wait(lambda: re.search(pattern, self._status()) is not None, f"the status {pattern!r}")

    def _log(self, priority: str, unit: str = "meshbridge") -> str:
        return self.run("journalctl", "--unit", unit, "--priority", priority, "--no-pager").stdout

    def _wait(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                log = self.run("journalctl", "--lines", "30", "--no-pager").stdout
                raise AssertionError(f"not seen within {seconds:.0f} s: {what}\n{self._status()}\n{log}")
            time.sleep(0.5)
