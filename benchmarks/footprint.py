"""What a bridge takes of its host: memory and CPU when idle, and for each event CPU and disk.

    python benchmarks/footprint.py [--quick] [--json FILE]

`meshbridge run` as a process of its own, at the stub of a daemon that `delivery.py` has, with one MQTT sink at a real
mosquitto and both listeners; then bursts of STDOUT events of 250 bytes, until all are acknowledged.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the broker that the tests have already
from benchmarks.delivery import Place, daemon, send, settings
from tests.support import Mosquitto, free_port, wait_for

HASH = "0f" * 32  # of an unknown token: it opens the admin listener, as in production
TARGETS = {"idle_memory_mib": 100.0, "idle_cpu_percent": 1.0}


class Bridge:
    """``meshbridge run``, as its metrics and /proc show it."""

    def __init__(self, place: Place) -> None:
        file = settings(place, place.broker, place.directory)
        given = yaml.safe_load(file.read_text())
        tokens = [{"name": "unused", "sha256": HASH, "scopes": ["read"]}]
        given |= {"admin": {"listen": f"127.0.0.1:{free_port()}", "tokens": tokens}, "log": {"level": "error"}}
        file.write_text(yaml.safe_dump(given))
        self._metrics = f"http://{given['exporter']['listen']}/metrics"
        self._journal = Path(given["journal"]["path"])
        self.process = subprocess.Popen([sys.executable, "-m", "meshbridge", "run", "--config", str(file)])
        self._seen = psutil.Process(self.process.pid)

    def value(self, name: str) -> float:
        with contextlib.suppress(OSError), urllib.request.urlopen(self._metrics, timeout=10) as response:
            lines = response.read().decode().splitlines()
            return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))
        return -1.0

    def cpu_seconds(self) -> float:
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    def memory_mib(self) -> float:
        return float(self._seen.memory_info().rss / 2**20)

    def journal_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._journal.glob("journal.db*"))


@contextlib.contextmanager
def running(place: Place) -> Iterator[Bridge]:
    bridge = Bridge(place)
    try:
        wait_for(lambda: bridge.value("meshbridge_daemon_up") == 1, "the link")
        yield bridge
    finally:
        bridge.process.terminate()
        bridge.process.wait(20)


def measure(place: Place, *, quick: bool) -> dict[str, float]:
    count, idle_seconds = (2_000, 1.0) if quick else (100_000, 20.0)
    with running(place) as bridge:
        figures = {"idle_memory_mib": bridge.memory_mib()}
        cpu = bridge.cpu_seconds()
        time.sleep(idle_seconds)
        figures["idle_cpu_percent"] = (bridge.cpu_seconds() - cpu) / idle_seconds * 100
        cpu, size = bridge.cpu_seconds(), bridge.journal_bytes()
        send(place, count)
        wait_for(lambda: bridge.value("meshbridge_sink_delivered_total") >= count, "all acknowledged", 120)
        figures["cpu_microseconds_for_an_event"] = (bridge.cpu_seconds() - cpu) / count * 1e6
        figures["journal_bytes_for_an_event"] = (bridge.journal_bytes() - size) / count
        figures["memory_after_it_mib"] = bridge.memory_mib()
    return {name: round(figure, 1) for name, figure in figures.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Footprint")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshbridge-bench-") as name:
        broker = Mosquitto(Path(name) / "mosquitto")
        broker.start()
        try:
            with daemon(Path(name)) as (address, authority):
                figures = measure(Place(address, authority, broker.port, Path(name)), quick=given.quick)
        finally:
            broker.stop()
    print(f"one daemon, one MQTT sink, both listeners, {os.cpu_count()} cores")
    for what, figure in figures.items():
        target = f"   at most {TARGETS[what]:g}" if what in TARGETS else ""
        print(f"  {what:<32} {figure:>8,.1f}{target}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
