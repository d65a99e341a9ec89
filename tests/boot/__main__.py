"""``python -m tests.boot [--directory DIRECTORY] [--package FILE] RELEASE…``"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from meshbridge.emulator import Emulator, EmulatorOptions
from tests.boot.hour import Hour
from tests.boot.machine import Machine


def main() -> int:
    parser = argparse.ArgumentParser(prog="make boot-test", description=__doc__)
    parser.add_argument("releases", nargs="+", metavar="RELEASE", help="bookworm, trixie")
    parser.add_argument("--directory", type=Path, help="where the releases are put and kept; default: nowhere")
    parser.add_argument("--package", type=Path, help="a package that is built already; default: it is built inside")
    given = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root, for systemd-nspawn")
    directory = given.directory or Path(tempfile.mkdtemp(prefix="boot-test-", dir="/var/tmp"))
    try:
        return sum(_passes(Machine(release, directory), given.package) for release in given.releases)
    finally:
        if given.directory is None:
            shutil.rmtree(directory)


def _passes(machine: Machine, package: Path | None) -> int:
    """The number of steps that fail: the first one ends the hour."""
    machine.install()
    inside = machine.root / "packages"
    if package is None:
        package = machine.build_package()
    else:
        inside.mkdir(exist_ok=True)
        shutil.copy(package, inside)
    with tempfile.TemporaryDirectory() as data, Emulator(EmulatorOptions(data_dir=Path(data))) as emulator, machine:
        hour = Hour(machine, f"/packages/{package.name}", emulator)
        for step in hour.steps():
            began = time.monotonic()
            try:
                step()
            except Exception as error:  # noqa: BLE001 whatever it is, it is the report
                sys.stdout.write(f"{machine.release} {step.__name__}: FAILED: {error}\n")
                return 1
            sys.stdout.write(f"{machine.release} {step.__name__}: ok ({time.monotonic() - began:.1f} s)\n")
            sys.stdout.flush()
    return 0


sys.exit(main())
