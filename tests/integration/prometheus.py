"""A real Prometheus to scrape with and to ask."""

import contextlib
import json
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from tests.support import Process, free_port, program, wait_for


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        body: bytes = response.read()
        return body


@dataclass
class Prometheus:
    """One that scrapes its targets every two seconds."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = json.loads(fetch(f"{self.url}/api/v1/query?{urlencode({'query': expression})}"))
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def values(self, expression: str) -> set[float]:
        return {float(found["value"][1]) for found in self.query(expression)}

    def target(self) -> dict[str, Any]:
        """The state of the first target; empty before there is one."""
        targets = json.loads(fetch(f"{self.url}/api/v1/targets"))["data"]["activeTargets"]
        first: dict[str, Any] = targets[0] if targets else {}
        return first


@contextlib.contextmanager
def scraping(targets: Sequence[str], directory: Path) -> Iterator[Prometheus]:
    """A Prometheus that has scraped the first of ``targets`` (host:port), well or not."""
    config = directory / "prometheus.yml"
    jobs = [{"job_name": "meshbridge", "static_configs": [{"targets": list(targets)}]}]
    config.write_text(
        yaml.safe_dump({"global": {"scrape_interval": "2s", "scrape_timeout": "2s"}, "scrape_configs": jobs})
    )
    binary = program("prometheus")
    assert binary is not None
    port = free_port()
    command = [
        binary,
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with Process(command, directory / "prometheus.log") as process:
        found = Prometheus(f"http://127.0.0.1:{port}")

        def scraped() -> bool:
            assert process.popen.poll() is None, process.output()
            try:
                return found.target().get("health") in ("up", "down")
            except OSError:
                return False

        wait_for(scraped, "the first scrape")
        yield found
