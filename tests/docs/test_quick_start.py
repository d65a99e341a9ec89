"""docs/quick-start.md: its blocks, one after the other, as a person types them, and what they show."""

import os
import re
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Page
from tests.support import Mosquitto, Process, free_port, program, wait_for

PAGE = Page(ROOT / "docs" / "quick-start.md")
BLOCKS = PAGE.all_blocks()
INSTALL = 0  # the first block makes the environment that the tests run in
ITS_OWN = "in a terminal of its own"
PORTS = ("6059", "1883", "9665", "9090")


class Reader:
    """Somebody with a folder, some terminals, and a broker; the ports are free ones instead of the usual."""

    def __init__(self, folder: Path, broker_port: int, stack: ExitStack) -> None:
        self.folder = folder
        self._there = f"cd {shlex.quote(str(folder))} &&"
        self._stack = stack
        self._ports = {port: str(free_port()) for port in PORTS} | {"1883": str(broker_port)}
        self._exports: dict[str, str] = {}
        self.terminals: list[Process] = []
        self.shown: list[str] = []

    def own(self, text: str) -> str:
        return re.sub(r"\b(" + "|".join(PORTS) + r")\b", lambda match: self._ports[match[1]], text)

    def environment(self) -> dict[str, str]:
        binaries = ROOT / ".venv" / "bin"
        path = f"{binaries}:{os.environ['PATH']}:/usr/sbin"
        return {"PATH": path, "HOME": str(self.folder), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"} | self._exports

    def open_terminal(self, command: str) -> None:
        command = self.own(command.strip())
        if command.startswith("meshbridge emulate"):  # which takes the usual ports, where nothing says otherwise
            command += f" --tcp-port {self._ports['6059']} --wss-port 0 --https-port 0"
        log = self.folder / f"terminal-{len(self.terminals)}.log"
        process = Process(["sh", "-c", f"{self._there} exec {command}"], log, env=self.environment())
        self.terminals.append(self._stack.enter_context(process))

    def type(self, commands: str) -> None:
        """Until they show what the page says, since some of it takes its time."""
        for name, value in re.findall(r"^export (\w+)=(.*)$", commands, re.MULTILINE):
            self._exports[name] = value
        self._commands = self.own(commands)

    def output(self) -> str:
        log = self.folder / "typed.log"
        log.unlink(missing_ok=True)
        with Process(["sh", "-c", f"{self._there} {self._commands}"], log, env=self.environment()) as typed:
            typed.popen.wait(60)
        return log.read_text()

    def save(self, name: str, text: str) -> None:
        (self.folder / name).write_text(self.own(text))


def shown(source: Callable[[], str], expected: str) -> bool:
    return shows(source(), expected)


def shows(output: str, expected: str) -> bool:
    """Whether each line of ``expected`` is in the output, … being anything; blanks between columns don't count."""
    for line in expected.splitlines():
        pieces = [r"\s+".join(re.escape(word) for word in piece.split()) for piece in line.split("…") if piece.strip()]
        if pieces and not re.search(".*?".join(pieces), output):
            return False
    return True


@pytest.mark.slow
@pytest.mark.needs("mosquitto")
@pytest.mark.needs("mosquitto_sub")
@pytest.mark.needs("prometheus")
def test_it_works_as_it_is_written(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path / "broker")
    broker.start()
    with ExitStack() as stack:
        stack.callback(broker.stop)
        reader = Reader(tmp_path, broker.port, stack)
        before = ("", "")
        for place, (language, behind, body) in enumerate(BLOCKS):
            if place == INSTALL:
                assert "pip install '.[demo]'" in body
                continue
            if behind == ITS_OWN:
                reader.open_terminal(body)
            elif language == "sh":
                reader.type(body)
            elif language == "yaml":
                reader.save("meshbridge.yaml" if "daemons:" in body else "prometheus.yml", body)
            elif language == "python":
                reader.save("hello.py", body)
                reader.type(f"{shlex.quote(str(ROOT / '.venv' / 'bin' / 'python'))} hello.py")
                assert reader.output() == ""
            else:
                expected = reader.own(body)
                from_terminal = before[1] == ITS_OWN or before[0] == "python"
                source = reader.terminals[-1].output if from_terminal else reader.output
                wait_for(partial(shown, source, expected), f"{expected}\nin\n{source()}")
            before = (language, behind)


def test_what_is_shown_is_told_from_what_is_not() -> None:
    assert shows("a   b 12 c\nd", "a b … c\nd")
    assert not shows("a b", "a c")
    assert program("sh")
