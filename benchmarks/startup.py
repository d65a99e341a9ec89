"""How soon it is there: `meshbridge version`, and `meshbridge run` until it says READY, beside importing its libraries.

The libraries are just those modules of other packages that a bridge has loaded when it is ready, imported by an
interpreter that does nothing else: what a program with these libraries costs at least. `run` ends the clock when the
journal is open and the listeners are up, as reported to the service manager.

    python benchmarks/startup.py [--quick] [--json FILE]
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

TARGET_VERSION_SECONDS = 0.3
TARGET_RATIO = 1.5
READY_SECONDS = 60.0
LOADED = """
import json, sys
from pathlib import Path
from meshbridge.cli import app
from meshbridge.config.load import load
from meshbridge.service.service import Service
service = Service(load(Path(sys.argv[1]), {}))
service.start()
names = [name for name, module in list(sys.modules.items())
         if "site-packages" in (getattr(module, "__file__", None) or "") and not name.startswith(("meshbridge", "_"))]
service.stop()
print("\\n" + json.dumps(names))
"""
TRIAL = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError:  # made by its package, not to be found by its name
        continue
    print(name)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Start-up")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshbridge-bench-") as name:
        results = measure(Path(name), rounds=2 if given.quick else 15)
    report(results)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def measure(directory: Path, rounds: int) -> dict[str, Any]:
    config = directory / "meshbridge.yaml"
    config.write_text(yaml.safe_dump(settings(directory)))
    libraries = directory / "libraries.py"
    loaded = loaded_modules(config)
    libraries.write_text("".join(f"import {module}\n" for module in loaded))
    contenders: dict[str, Callable[[], float]] = {
        "python": lambda: timed([sys.executable, "-c", "pass"]),
        "version": lambda: timed([sys.executable, "-m", "meshbridge", "version"]),
        "libraries": lambda: timed([sys.executable, str(libraries)]),
        "run": lambda: until_ready(config, directory),
    }
    for contender in contenders.values():
        contender()  # so that none is the first to read a file
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            seconds[name].append(contender())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "rounds": rounds,
        "modules": len(loaded),
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "run_to_libraries": round(medians["run"] / medians["libraries"], 2),
        "targets": {"version_seconds": TARGET_VERSION_SECONDS, "run_to_libraries": TARGET_RATIO},
    }


def settings(directory: Path) -> dict[str, Any]:
    """A daemon, a broker and a hook that are not there: being ready waits for none of them."""
    return {
        "daemons": {"node-a": {"url": "tcp://127.0.0.1:1", "username": "bridge", "password": "none"}},
        "sinks": {
            "broker": {"type": "mqtt", "url": "mqtt://127.0.0.1:1"},
            "hook": {"type": "webhook", "url": "http://127.0.0.1:1"},
        },
        "journal": {"path": str(directory / "journal")},
        "exporter": {"listen": "127.0.0.1:0"},
    }


def loaded_modules(config: Path) -> list[str]:
    """The modules of other packages that a running bridge has, in the order in which it came by them."""
    done = subprocess.run([sys.executable, "-c", LOADED, str(config)], capture_output=True, text=True, check=True)
    modules: list[str] = json.loads(done.stdout.splitlines()[-1])
    done = subprocess.run([sys.executable, "-c", TRIAL, *modules], capture_output=True, text=True, check=True)
    return done.stdout.split()


def timed(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def until_ready(config: Path, directory: Path) -> float:
    """Seconds from the start of the process to READY=1; the process is ended then."""
    address = directory / "notify"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(str(address))
        manager.settimeout(READY_SECONDS)
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "meshbridge", "run", "--config", str(config)],
            env={**os.environ, "NOTIFY_SOCKET": str(address)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            message = manager.recv(4096)
            took = time.perf_counter() - begun
            if message != b"READY=1":
                raise RuntimeError(f"the bridge said {message!r}")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(READY_SECONDS)
            address.unlink()
    return took


def report(results: dict[str, Any]) -> None:
    seconds = results["seconds"]
    print(f"{'':<44}{'seconds':>8}{'aim':>14}")
    print(f"{'python, nothing':<44}{seconds['python']:>8.3f}")
    print(f"{'meshbridge version':<44}{seconds['version']:>8.3f}{f'< {TARGET_VERSION_SECONDS} s':>14}")
    what = f"importing its libraries ({results['modules']} modules)"
    print(f"{what:<44}{seconds['libraries']:>8.3f}")
    print(f"{'meshbridge run, until READY':<44}{seconds['run']:>8.3f}{f'< {TARGET_RATIO} x that':>14}")
    print(f"run : libraries = {results['run_to_libraries']}")


if __name__ == "__main__":
    sys.exit(main())
