"""From publish to answer: a command over MQTT beside the same request to the admin API.

    python benchmarks/commands.py [--quick] [--seconds N] [--rate N] [--json FILE]

A bridge, a broker, an emulated daemon. `enable` of an app that is enabled, at a steady rate: over MQTT 5 at QoS 1 to
the Response Topic, and over the admin API with one connection for each caller. They take turns; ratios are medians of
those of the rounds.
"""

import argparse
import json
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import requests

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from meshbridge.admin.tokens import digest
from meshbridge.appmesh import App
from meshbridge.emulator import Emulator, EmulatorOptions
from tests.e2e.conftest import Bridge, daemon_settings
from tests.integration.command_stage import Sender, client_of
from tests.support import Mosquitto, free_port

TOKEN = "b" * 43
ROUNDS = 3
CALLERS = 8


def at_rate(rate: int, seconds: float, ask: Callable[[int], object]) -> None:
    """Calls ``ask`` so often a second, with a number."""
    began = time.monotonic()
    for number in range(int(rate * seconds)):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        ask(number)


def over_mqtt(broker: Mosquitto, rate: int, seconds: float, turn: int) -> list[float]:
    """Seconds from publish to answer of each."""
    sender, sent = Sender(broker.port), dict[bytes, float]()
    taken: list[float] = []

    def take() -> None:
        for _ in range(int(rate * seconds)):
            answer = sender.answers.get(timeout=60)
            assert json.loads(answer.payload)["ok"], answer.payload
            taken.append(time.monotonic() - sent[vars(answer.properties)["CorrelationData"]])

    def ask(number: int) -> None:
        name = b"%d-%d" % (turn, number)
        sent[name] = time.monotonic()
        sender.send("meshbridge/node-a/web/command", "enable", correlation=name)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    at_rate(rate, seconds, ask)
    thread.join()
    sender.close()
    return taken


def over_api(port: int, rate: int, seconds: float) -> list[float]:
    """Seconds from request to response of each."""
    sessions: queue.Queue[requests.Session] = queue.Queue()
    for _ in range(CALLERS):
        sessions.put(requests.Session())
    taken: list[float] = []

    def call(asked_at: float) -> None:
        session = sessions.get()
        response = session.post(
            f"http://127.0.0.1:{port}/api/v1/daemons/node-a/apps/web/enable",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=60,
        )
        assert response.ok, response.text
        taken.append(time.monotonic() - asked_at)
        sessions.put(session)

    with ThreadPoolExecutor(CALLERS) as pool:
        at_rate(rate, seconds, lambda _number: pool.submit(call, time.monotonic()))
    return taken


def measured(rate: int, seconds: float) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as directory,
        Mosquitto(Path(directory) / "mosquitto") as broker,
        Emulator(EmulatorOptions(wss_port=None, https_port=None)) as emulator,
    ):
        client = client_of(emulator)
        client.add_app(App({"name": "web", "command": "sleep 600", "shell": True}))
        client.close()
        port = free_port()
        token = {"name": "bench", "sha256": digest(TOKEN), "scopes": ["operate"]}
        commands = {"allow": ["enable"], "max_concurrent": 100}
        bridge = Bridge(
            Path(directory),
            {
                "daemons": {"node-a": daemon_settings(emulator)},
                "sinks": {"broker": {"type": "mqtt", "url": broker.url, "commands": commands}},
                "admin": {"listen": f"127.0.0.1:{port}", "tokens": [token]},
            },
        )
        bridge.start()
        try:
            bridge.wait_up()
            bridge.process.wait_for_output("sink connected")
            rounds = [(over_mqtt(broker, rate, seconds, turn), over_api(port, rate, seconds)) for turn in range(ROUNDS)]
        finally:
            bridge.close()
    figures: dict[str, Any] = {"rate": rate}
    for name, of in (("p50", 0.5), ("p99", 0.99)):
        each = [tuple(sorted(taken)[int(len(taken) * of)] for taken in turn) for turn in rounds]
        figures[f"mqtt_{name}_ms"] = round(1000 * median(one[0] for one in each), 1)
        figures[f"api_{name}_ms"] = round(1000 * median(one[1] for one in each), 1)
        figures[f"ratio_{name}"] = round(median(one[0] / one[1] for one in each), 2)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Time from publish to answer, beside the admin API.")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = measured(arguments.rate, 1.0 if arguments.quick else arguments.seconds)
    for name, value in figures.items():
        print(f"{name:12} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
