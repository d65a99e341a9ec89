"""What every kind of test shares: which programs there are, and the fixtures that run them."""

import logging
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings
from uvicorn.protocols.websockets import websockets_sansio_impl

from meshbridge import outside
from tests.support import Mosquitto, program

IN_CI = bool(os.environ.get("CI"))

# Tests start the program some hundred times. Without compiled modules each start takes a second of CPU time more.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# An emulator that a session shares pings its connections meanwhile. Drawn from the one generator of the process, the
# pings' contents would be taken for a strategy's own draws, and Hypothesis refuses those.
websockets_sansio_impl.random = random.Random()  # type: ignore[attr-defined, assignment]

# A shell starts what it puts in the background with SIGINT ignored, and so would the programs that tests end by it be.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", choices=("short", "long"), default="short", help="how many rounds the fault tests run")


def pytest_configure(config: pytest.Config) -> None:
    """``make test`` tries fewer examples of each property than ``make test-slow`` and CI."""
    settings.register_profile("quick", max_examples=40)
    if config.option.markexpr == "not slow":
        settings.load_profile("quick")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A missing program skips a test by name; in CI nothing may be left out."""
    for mark in item.iter_markers("needs"):
        missing = [name for name in mark.args if program(name) is None]
        if missing:
            text = f"needs {', '.join(missing)} (`make programs` installs it)"
            (pytest.fail if IN_CI else pytest.skip)(text)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A real broker on loopback, stopped at the end; ask for it together with the mark ``needs("mosquitto")``."""
    with Mosquitto(tmp_path / "mosquitto") as broker:
        yield broker
    shutil.rmtree(tmp_path / "mosquitto", ignore_errors=True)


@pytest.fixture(autouse=True)
def _levels_as_before() -> Iterator[None]:
    """A command that runs in this process sets levels of the log, which would hide what later tests look for."""
    names = ("", "apscheduler", "urllib3", "websocket", "uvicorn")
    before = {name: logging.getLogger(name).level for name in names}
    configured = structlog.get_config()
    yield
    structlog.configure(**configured)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def _forget_secrets_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = outside._masks
    monkeypatch.setattr(masks, "_forms", masks._forms.copy())
    monkeypatch.setattr(masks, "_begins", {begin: forms.copy() for begin, forms in masks._begins.items()})


@pytest.fixture(autouse=True)
def _secrets_as_before(_secrets_of_modules_as_before: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that one test uses ("file") must not be masked in what a command prints in another ("the file")."""
    _forget_secrets_afterwards(monkeypatch)


@pytest.fixture(autouse=True, scope="module")
def _secrets_of_modules_as_before() -> Iterator[None]:
    """The same for what the tests of a module share."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        _forget_secrets_afterwards(monkeypatch)
        yield
