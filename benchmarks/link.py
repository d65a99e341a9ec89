"""What a link costs: events from the socket to the fsynced journal, and what 1, 10 and 100 daemons take.

    python benchmarks/link.py [--quick] [--json FILE]

* **journaled**: a burst of STDOUT events of 20 apps until all are fsynced, by a link and its journal alone, beside the
  official SDK's subscribe callback that only counts. Events a second, and CPU time of the process for each event, which
  other work on the machine disturbs less.
* **daemons**: a whole bridge with so many daemons of 100 apps each, one file as a sink: memory, threads, CPU when
  nothing happens, and CPU for an event while each daemon sends ten a second.

The daemons are stubs in a process of their own, as in `delivery.py`. Every contender is a process of its own; they take
turns, and ratios are medians of those of the rounds.
"""

import argparse
import contextlib
import json
import multiprocessing
import socket
import ssl
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import trustme
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.delivery import SECONDS, Daemon, Place, resident_mib, send, subscribed
from meshbridge import telemetry
from meshbridge.config.load import load
from meshbridge.fields import Tls
from meshbridge.journal import Journal, JournalOptions
from meshbridge.link import DaemonOptions, Link
from meshbridge.service.service import Service
from tests.support import free_port, wait_for

Address = tuple[str, int]

TARGET_RATIO = 4.0
APPS_EACH = 100
EVENTS_EACH_SECOND = 10
SETTLE_SECONDS = 3.0  # after the links are up: lists are compared, and memory has stopped to move


# --- the daemons ---------------------------------------------------------------------------------------------------


def serve(ready: Any, certificate: str, count: int) -> None:
    """So many daemons, each at a port of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    apps = [{"name": f"app-{number}", "command": "x", "status": 1, "owner": "admin"} for number in range(APPS_EACH)]

    def accept(listener: socket.socket) -> None:
        daemon = Daemon(context, apps)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=daemon.serve, args=(connection,), daemon=True).start()

    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ready.put([listener.getsockname() for listener in listeners])
    for listener in listeners:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
    threading.Event().wait()


@contextlib.contextmanager
def daemons(directory: Path, count: int) -> Iterator[tuple[list[Address], str]]:
    """Their addresses, and the file of their authority."""
    authority = trustme.CA()
    pem, ca = directory / "daemon.pem", directory / "ca.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    authority.cert_pem.write_to_path(str(ca))
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Queue()
    process = spawn.Process(target=serve, args=(ready, str(pem), count), daemon=True)
    process.start()
    try:
        yield [tuple(address) for address in ready.get(timeout=60)], str(ca)
    finally:
        process.kill()
        process.join()


# --- the contenders ------------------------------------------------------------------------------------------------


class Watch:
    """Events a second and microseconds of CPU for each, from when it was made."""

    def __init__(self) -> None:
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def figures(self, count: int) -> dict[str, float]:
        took, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        return {"rate": count / took, "cpu_us": cpu / count * 1e6}


def link(place: Place, count: int) -> dict[str, float]:
    """A link and its journal."""
    with tempfile.TemporaryDirectory(dir=place.directory) as directory:
        journal = Journal(JournalOptions(path=Path(directory)))
        journal.open()
        options = DaemonOptions.model_validate(daemon_settings(place.daemon, place.authority))
        one = Link("node-a", options, journal)
        one.start()
        wait_for(lambda: one.status().up, "the link")
        watch = Watch()
        send(place, count)
        while journal.extent[1] < count:
            time.sleep(0.002)
        figures = watch.figures(count)
        one.stop(10)
        journal.close()
    return figures


def callback(place: Place, count: int) -> dict[str, float]:
    """The official SDK, with a callback that counts."""
    received, done = 0, threading.Event()

    def on_event(_event: Any) -> None:
        nonlocal received
        received += 1
        if received == count:
            done.set()

    kept = subscribed(place, on_event)
    watch = Watch()
    send(place, count)
    assert done.wait(SECONDS), f"{received} of {count}"
    figures = watch.figures(count)
    del kept
    return figures


def bridge(addresses: list[Address], authority: str, directory: str, idle_seconds: float) -> dict[str, float]:
    """A whole bridge with these daemons."""
    names = [f"node-{number}" for number in range(len(addresses))]
    settings = {
        "daemons": {name: daemon_settings(address, authority) for name, address in zip(names, addresses, strict=True)},
        "journal": {"path": f"{directory}/journal"},
        "sinks": {"log": {"type": "file", "path": f"{directory}/events"}},
        "exporter": {"listen": f"127.0.0.1:{free_port()}"},
    }
    file = Path(directory) / "meshbridge.yaml"
    file.write_text(yaml.safe_dump(settings))
    service = Service(load(file, {}))
    began = time.perf_counter()
    service.start()
    links = service.parts.links
    wait_for(lambda: all(one.status().up for one in links), "the links", SECONDS)
    figures = {"daemons": len(links), "seconds_until_up": time.perf_counter() - began}
    time.sleep(SETTLE_SECONDS)
    figures["memory_mib"] = resident_mib(multiprocessing.current_process().pid or 0)
    figures["threads"] = threading.active_count()
    cpu, began = time.process_time(), time.perf_counter()
    time.sleep(idle_seconds)
    figures["idle_cpu_percent"] = (time.process_time() - cpu) / (time.perf_counter() - began) * 100
    each = int(EVENTS_EACH_SECOND * idle_seconds)
    before, cpu = service.journal.extent[1], time.process_time()
    sending = multiprocessing.get_context("spawn").Process(target=send_all, args=(addresses, authority, each))
    sending.start()
    expected = before + each * len(addresses)
    wait_for(lambda: service.journal.cursor("log") >= expected, "the events", SECONDS)
    sending.join()
    figures["cpu_us_for_an_event"] = (time.process_time() - cpu) / (each * len(addresses)) * 1e6
    service.stop()
    return figures


def send_all(addresses: list[Address], authority: str, each: int) -> None:
    """Has every daemon send; by a process of its own, whose CPU is not the bridge's."""
    for address in addresses:
        send(Place(address, authority, 0, Path()), each, EVENTS_EACH_SECOND)


def daemon_settings(address: Address, authority: str) -> dict[str, Any]:
    return {
        "url": "tcp://{}:{}".format(*address),
        "username": "user",
        "password": "password",
        "tls": Tls(ca_file=Path(authority)).model_dump(mode="json", include={"ca_file"}),
    }


def contend(contender: Callable[..., dict[str, float]], figures: Any, arguments: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")
    telemetry.configure_logging("warning")
    figures.put(contender(*arguments))


def measured(contender: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """In a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    process = spawn.Process(target=contend, args=(contender, queue, arguments))
    process.start()
    process.join(SECONDS * 2)
    if process.exitcode != 0:
        process.kill()
        raise RuntimeError(f"{contender.__name__} failed")
    found: dict[str, float] = queue.get(timeout=1)
    return found


# --- what is measured ----------------------------------------------------------------------------------------------


def journaled(directory: Path, *, quick: bool) -> dict[str, Any]:
    count, rounds = (2_000, 1) if quick else (60_000, 5)
    ours, theirs = [], []
    with daemons(directory, 1) as ((address,), authority):
        place = Place(address, authority, 0, directory)
        for _ in range(rounds):
            ours.append(measured(link, place, count))
            theirs.append(measured(callback, place, count))
    return {
        name: {
            "meshbridge": round(median(one[name] for one in ours), 1),
            "official": round(median(one[name] for one in theirs), 1),
            "ratio": round(median(one[name] / other[name] for one, other in zip(ours, theirs, strict=True)), 2),
        }
        for name in ("rate", "cpu_us")
    }


def many(directory: Path, *, quick: bool) -> list[dict[str, float]]:
    rows = []
    for count in (1, 3) if quick else (1, 10, 100):
        place = directory / str(count)
        place.mkdir()
        with daemons(place, count) as (addresses, authority):
            row = measured(bridge, addresses, authority, str(place), 1.0 if quick else 20.0)
        rows.append({name: round(figure, 2) for name, figure in row.items()})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    parser.add_argument("--json", type=Path, help="where to write the figures, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshbridge-bench-") as name:
        results: dict[str, Any] = {"journaled": journaled(Path(name), quick=arguments.quick)}
        results["daemons"] = many(Path(name), quick=arguments.quick)
    rate, cpu = results["journaled"]["rate"], results["journaled"]["cpu_us"]
    print(f"{'':<28}{'meshbridge':>12}{'official':>12}{'ratio':>8}{'target':>8}")
    print(
        f"{'events a second':<28}{rate['meshbridge']:>12,}{rate['official']:>12,}{rate['ratio']:>8}{TARGET_RATIO:>8g}"
    )
    print(f"{'CPU for an event, us':<28}{cpu['meshbridge']:>12,}{cpu['official']:>12,}{cpu['ratio']:>8}")
    for key in results["daemons"][0]:
        print(f"{key.replace('_', ' '):<28}" + "".join(f"{row[key]:>12,g}" for row in results["daemons"]))
    text = json.dumps(results)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
