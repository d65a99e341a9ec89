"""Daemons that answer what a real one answered, or whatever a test wants."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parents[2] / "data" / "golden"


def _answer(file: str, operation: str) -> str:
    for line in (GOLDEN / file).read_text().splitlines():
        exchange = json.loads(line)
        if exchange.get("operation") == operation and exchange["response"]["http_status"] == 200:
            return str(exchange["response"]["body"])
    raise LookupError(operation)


@pytest.fixture(scope="session")
def golden_metrics() -> bytes:
    """A daemon's own text, with apps."""
    return (GOLDEN / "metrics.txt").read_bytes()


@pytest.fixture(scope="session")
def golden_resources() -> dict[str, Any]:
    resources: dict[str, Any] = json.loads(_answer("exchanges.jsonl", "get_host_resources"))
    return resources


@pytest.fixture(scope="session")
def golden_apps() -> list[dict[str, Any]]:
    """Twelve apps, two of them one-off runs."""
    apps: list[dict[str, Any]] = json.loads(_answer("output.jsonl", "list_apps while one-off runs run"))
    return apps


def _nothing(_timeout_seconds: float) -> Any:
    raise ConnectionError("not reachable")


@dataclass
class FakeDaemon:
    """``answers``: operation -> what it does with its timeout."""

    name: str
    answers: dict[str, Callable[[float], Any]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def _call(self, operation: str, timeout_seconds: float) -> Any:
        self.calls.append(operation)
        return self.answers.get(operation, _nothing)(timeout_seconds)

    def get_metrics(self, timeout_seconds: float) -> bytes:
        text: bytes = self._call("get_metrics", timeout_seconds)
        return text

    def get_host_resources(self, timeout_seconds: float) -> dict[str, Any]:
        resources: dict[str, Any] = self._call("get_host_resources", timeout_seconds)
        return resources

    def list_apps(self, timeout_seconds: float) -> list[dict[str, Any]]:
        apps: list[dict[str, Any]] = self._call("list_apps", timeout_seconds)
        return apps


@pytest.fixture
def make_daemon(
    golden_metrics: bytes, golden_resources: dict[str, Any], golden_apps: list[dict[str, Any]]
) -> Callable[..., FakeDaemon]:
    """Makes a daemon with the golden answers; each can be replaced by a function of the timeout."""

    def make(name: str = "node-a", **answers: Callable[[float], Any]) -> FakeDaemon:
        golden: dict[str, Callable[[float], Any]] = {
            "get_metrics": lambda _: golden_metrics,
            "get_host_resources": lambda _: golden_resources,
            "list_apps": lambda _: golden_apps,
        }
        return FakeDaemon(name, golden | answers)

    return make
