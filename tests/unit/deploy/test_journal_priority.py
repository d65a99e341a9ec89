"""Log lines that systemd reads carry their priority, each line of a traceback, too."""

import io
import logging
import re
from collections.abc import Iterator

import pytest

from meshbridge import telemetry


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    telemetry.configure_logging("info")
    root.handlers[:] = handlers


def logged(form: str) -> list[str]:
    stream = io.StringIO()
    telemetry.configure_logging("debug", form, stream)
    telemetry.log.debug("one")
    telemetry.log.info("two")
    telemetry.log.warning("three")
    try:
        int("four")
    except ValueError:
        telemetry.log.exception("four")
    logging.getLogger("library").warning("five")
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("form", ["text", "json"])
def test_each_line_has_its_priority_for_the_journal(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:12345")
    lines = logged(form)
    assert all(re.match(r"<[3467]>", line) for line in lines)
    assert [line[:3] for line in lines[:3]] == ["<7>", "<6>", "<4>"]
    assert {line[:3] for line in lines[3:-1]} == {"<3>"}
    assert lines[-1].startswith("<4>")


@pytest.mark.parametrize("form", ["text", "json"])
def test_there_is_none_elsewhere(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert not any(line.startswith("<") for line in logged(form))
