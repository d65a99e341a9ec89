"""A directory that can be taken away; a file system has no say beyond that."""

from pathlib import Path

import orjson

from meshbridge.sinks.base import Sink
from meshbridge.sinks.file import FileOptions
from tests.contract.sinks.far_end import Say, Script


def _age(file: Path) -> tuple[str, int]:
    moment, _, number = file.name.removeprefix("events.jsonl.").partition("-")
    return moment, int(number or 0)


class FileFarEnd:
    says = frozenset({Say.OK})
    keeps_first_order = True
    rotate: dict[str, object] | None = None

    def __init__(self, directory: Path) -> None:
        self.script = Script()
        self._away = directory / "away"
        self._there = directory / "there"
        self._away.mkdir()

    def start(self) -> None:
        self._away.rename(self._there)

    def stop(self) -> None:
        if self._there.exists():
            self._there.rename(self._away)

    def sink(self) -> Sink:
        settings = {"type": "file", "path": str(self._there / "events.jsonl")}
        if self.rotate is not None:
            settings |= {"rotate": self.rotate}  # type: ignore[dict-item]
        return FileOptions.model_validate(settings).build("log", self._there)

    def close(self) -> None:
        pass

    def arrived(self) -> list[str]:
        directory = self._there if self._there.exists() else self._away
        files = [*sorted(directory.glob("events.jsonl.*"), key=_age), directory / "events.jsonl"]
        lines = [line for file in files if file.exists() for line in file.read_bytes().splitlines()]
        return [orjson.loads(line)["id"] for line in lines]


class RotatedFileFarEnd(FileFarEnd):
    rotate = {"max_bytes": "2KiB", "keep": 1000}  # noqa: RUF012
