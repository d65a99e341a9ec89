"""A Debian release in a container, booted by systemd-nspawn. It shares this host's loopback."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
_PACKAGES = (
    "adduser,ca-certificates,curl,dbus,logrotate,man-db,mosquitto,mosquitto-clients,python3,python3-venv,sudo,"
    "systemd,systemd-sysv"
)
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
_BOOT_SECONDS = 120.0


class Machine:
    """``with`` boots it, and ends it. Its folder is kept: a second run of the same folder needs no download."""

    def __init__(self, release: str, directory: Path) -> None:
        self.release = release
        self.root = directory / release
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def install(self) -> None:
        """Downloads the release, unless its folder is there, from where this host has its own packages from."""
        if not (self.root / "etc/os-release").exists():
            arguments = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", self.release, str(self.root)]
            subprocess.run([*arguments, _mirror()], check=True)
        shutil.copy("/etc/resolv.conf", self.root / "etc/resolv.conf")

    def build_package(self) -> Path:
        """The package, built inside by ``make deb``'s script. Pip's settings are this host's."""
        (self.root / "src").mkdir(exist_ok=True)
        (self.root / "packages").mkdir(exist_ok=True)
        binds = [f"--bind-ro={ROOT}:/src", *(f"--bind-ro={path}" for path in _pip_files())]
        settings = [f"--setenv={key}={value}" for key, value in os.environ.items() if key.startswith("PIP_")]
        excluding = "mkdir -p /tmp/build && cd /src && tar c --exclude=.venv --exclude=.git . | tar x -C /tmp/build"
        script = f"{excluding} && cd /tmp/build && deploy/debian/build /packages"
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "-D", str(self.root), *binds, *settings]
        subprocess.run([*command, "--pipe", "/bin/sh", "-euc", script], check=True)
        (package,) = (self.root / "packages").glob("meshbridge_*.deb")
        return package

    def __enter__(self) -> Self:
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--console=pipe"]
        self._nspawn = subprocess.Popen(
            [*command, f"--machine=boot-{self.release}", "-D", str(self.root)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
        )  # fmt: skip
        deadline = time.monotonic() + _BOOT_SECONDS
        while self._state() not in {"running", "degraded"}:
            if time.monotonic() > deadline or self._nspawn.poll() is not None:
                self.__exit__()
                raise TimeoutError(f"{self.release} does not boot")
            time.sleep(0.5)
        return self

    def _state(self) -> str:
        assert self._nspawn is not None
        children = (
            Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text(encoding="ascii").split()
        )
        if not children:
            return ""
        self._leader = int(children[0])
        return self.run("systemctl", "is-system-running", check=False).stdout.strip()

    def __exit__(self, *_: object) -> None:
        assert self._nspawn is not None
        self._nspawn.send_signal(signal.SIGTERM)  # as systemd-nspawn(1) has it: an orderly shutdown
        try:
            self._nspawn.wait(60)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()

    def run(self, *command: str, check: bool = True, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """A command inside, as root."""
        place = f"/proc/{self._leader}/root"
        done = subprocess.run(
            [
                "nsenter", "--target", str(self._leader), "--mount", "--uts", "--ipc", "--pid",
                f"--root={place}", f"--wd={place}", "--",
                "/usr/bin/env", "-i", *(f"{key}={value}" for key, value in _ENVIRONMENT.items()), *command,
            ],
            capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check and done.returncode:
            sys.stderr.write(done.stdout + done.stderr)
            raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}")
        return done


def _mirror() -> str:
    """Where this host has Debian itself from, as its apt says."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(LABEL)", "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return next(line.split()[0] for line in listed if line.split()[1:] == ["Debian", "Debian"])


def _pip_files() -> list[str]:
    """What pip's settings here name: its own file, certificates, folders of packages."""
    named = ["/etc/pip.conf", *os.environ.get("PIP_FIND_LINKS", "").split(), os.environ.get("PIP_CERT", "")]
    named += os.environ.get("BOOT_TEST_BIND", "").split()
    return [path for path in named if path and Path(path).exists()]
