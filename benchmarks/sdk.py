"""The SDK beside the official one, in one run: decoded events a second, and requests a second on one connection.

    python benchmarks/sdk.py [--quick] [--json FILE]

The daemon here is a stub in a process of its own, as fast as Python lets it be, so that what is measured is the client:
it answers `list_labels` with ten labels, and sends a burst of STDOUT events, encoded beforehand, when a label is added.
Each figure is the best of several rounds, since other work on the machine can only make it worse.

The official client is not safe for threads on one connection (its TLS stream breaks within a second), so its 16 threads
take turns, by a lock, as its users have to.
"""

import argparse
import json
import multiprocessing
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import appmesh
import msgpack
import trustme

from meshbridge.appmesh import AppMeshClientTCP

EVENTS, ROUNDS, SECONDS = 60_000, 5, 1.0
TARGETS = {"events": 4.0, "requests, 1 thread": 2.0, "requests, 16 threads": 2.0}
MAGIC = 0x07C707F8


# --- the daemon ---------------------------------------------------------------------------------------------------


def frame(fields: dict[str, Any]) -> bytes:
    body: bytes = msgpack.packb(fields)
    return struct.pack("!II", MAGIC, len(body)) + body


def answer(request: dict[str, Any], body: str) -> bytes:
    return frame(
        {
            "uuid": request["uuid"],
            "request_uri": request["request_uri"],
            "http_status": 200,
            "body_msg_type": "application/json",
            "body": body,
            "headers": {},
        }
    )


def event(sequence: int, event_type: str) -> bytes:
    body = {
        "subscription_id": "s1",
        "event_type": event_type,
        "app_name": "benchmark",
        "timestamp": 1795515804,
        "sequence": sequence,
        "data": {"output": f"line {sequence} of an application's output, as long as such lines are\n", "position": 70},
    }
    return frame(
        {
            "uuid": f"event-{sequence}",
            "request_uri": "/appmesh/event",
            "http_status": 200,
            "body_msg_type": "application/json",
            "body": json.dumps(body),
            "headers": {"X-Subscription-Id": "s1", "X-Event-Type": event_type, "X-App-Name": "benchmark"},
        }
    )


LABELS = json.dumps({f"label-{n}": f"value {n}" for n in range(10)})
LOGIN = json.dumps({"access_token": "a.e30.c"})
SUBSCRIBED = json.dumps({"subscription_id": "s1", "app_name": "*", "events": ["STDOUT"]})


def serve_connection(connection: ssl.SSLSocket, bursts: dict[int, list[bytes]]) -> None:
    buffer = b""
    while data := connection.recv(1 << 18):
        buffer += data
        answers = []
        while len(buffer) >= 8:
            length = struct.unpack_from("!I", buffer, 4)[0]
            if len(buffer) < 8 + length:
                break
            request = msgpack.unpackb(buffer[8 : 8 + length])
            buffer = buffer[8 + length :]
            uri = request["request_uri"]
            if uri == "/appmesh/labels":
                answers.append(answer(request, LABELS))
            elif uri == "/appmesh/subscribe":
                answers.append(answer(request, SUBSCRIBED))
            elif uri == "/appmesh/label/burst":
                connection.sendall(answer(request, "{}"))
                for piece in bursts[int(request["query"]["value"].removeprefix("n"))]:
                    connection.sendall(piece)
            else:
                answers.append(answer(request, LOGIN if uri == "/appmesh/login" else "{}"))
        if answers:
            connection.sendall(b"".join(answers))


def daemon(ready: Any, certificate: str, sizes: list[int]) -> None:
    bursts = {}
    for size in sizes:
        events = [event(n, "STDOUT") for n in range(size - 1)] + [event(size - 1, "EXIT")]
        bursts[size] = [b"".join(events[n : n + 100]) for n in range(0, size, 100)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    ready.put(listener.getsockname())
    while True:
        plain, _address = listener.accept()
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = context.wrap_socket(plain, server_side=True)
        threading.Thread(target=serve_connection, args=(connection, bursts), daemon=True).start()


# --- the clients --------------------------------------------------------------------------------------------------


def events_a_second(client: Any, size: int) -> float:
    done = threading.Event()
    received = 0

    def on_event(event: Any) -> None:
        nonlocal received
        received += 1
        if event.event_type == "EXIT":
            done.set()

    subscription = client.subscribe("*", ["STDOUT"], on_event)
    begun = time.perf_counter()
    client.add_label("burst", f"n{size}")
    if not done.wait(120):
        raise RuntimeError(f"only {received} of {size} events came")
    took = time.perf_counter() - begun
    if received != size:
        raise RuntimeError(f"{received} of {size} events came")
    client.unsubscribe(subscription.subscription_id)
    return size / took


def requests_a_second(client: Any, threads: int, seconds: float, turns: AbstractContextManager[Any]) -> float:
    counts = [0] * threads
    until = time.perf_counter() + seconds

    def ask(index: int) -> None:
        while time.perf_counter() < until:
            with turns:
                client.list_labels()
            counts[index] += 1

    workers = [threading.Thread(target=ask, args=(index,)) for index in range(threads)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - begun)


def clients(address: tuple[str, int], authority: str) -> dict[str, Callable[[], Any]]:
    return {
        "meshbridge": lambda: AppMeshClientTCP(address, authority),
        "official": lambda: appmesh.AppMeshClientTCP(address, authority),
    }


def measure(address: tuple[str, int], authority: str, size: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Rounds of both clients in turn, so that a change of the machine's load meets both."""
    best: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name, make in clients(address, authority).items():
            turns: AbstractContextManager[Any] = threading.Lock() if name == "official" else nullcontext()
            figures = {}
            with closing(make()) as client:
                client.login("user", "password")
                figures["requests, 1 thread"] = requests_a_second(client, 1, seconds, nullcontext())
                figures["requests, 16 threads"] = requests_a_second(client, 16, seconds, turns)
            with closing(make()) as client:
                client.login("user", "password")
                figures["events"] = events_a_second(client, size)
            kept = best.setdefault(name, figures)
            for what, figure in figures.items():
                kept[what] = max(kept[what], figure)
    return {
        what: {
            **{name: round(figures[what]) for name, figures in best.items()},
            "ratio": round(best["meshbridge"][what] / best["official"][what], 2),
            "target": target,
        }
        for what, target in TARGETS.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    parser.add_argument("--json", type=Path, help="where to write the figures, too")
    arguments = parser.parse_args()
    size, rounds, seconds = (2_000, 1, 0.1) if arguments.quick else (EVENTS, ROUNDS, SECONDS)
    warnings.simplefilter("ignore")

    with tempfile.TemporaryDirectory() as directory:
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1")
        pem, ca = Path(directory, "daemon.pem"), Path(directory, "ca.pem")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(pem))
        authority.cert_pem.write_to_path(str(ca))
        ready: Any = multiprocessing.get_context("spawn").Queue()
        process = multiprocessing.get_context("spawn").Process(
            target=daemon, args=(ready, str(pem), [size]), daemon=True
        )
        process.start()
        try:
            results = measure(tuple(ready.get(timeout=60)), str(ca), size, rounds, seconds)
        finally:
            process.kill()
            process.join()

    print(f"{'a second':<22}{'meshbridge':>12}{'official':>12}{'ratio':>8}{'target':>8}")
    for what, row in results.items():
        print(f"{what:<22}{row['meshbridge']:>12,}{row['official']:>12,}{row['ratio']:>8}{row['target']:>8}")
    text = json.dumps(results)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
