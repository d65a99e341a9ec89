"""The first moments of the command: closed and odd standard streams, and signals before the bridge has started."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import meshbridge
from tests.support import DEADLINE_SECONDS, free_port, meshbridge_command, wait_for

COMMANDS = [["--help"], ["check"], ["apps"]]
OTHERS = [["version"], ["config", "show"], ["healthcheck"], ["token", "new", "--name", "x"]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "meshbridge.yaml"
    daemon = {"url": f"tcp://127.0.0.1:{free_port()}", "username": "bridge", "password": "päss → word"}
    settings = {
        "daemons": {"node-a": daemon},
        "journal": {"path": str(tmp_path / "journal")},
        "exporter": {"listen": "127.0.0.1:0"},
    }
    path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    return path


def call(config: Path, words: list[str], redirections: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """A command with redirections of the shell."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", *meshbridge_command(*words)],
        env={**os.environ, "MESHBRIDGE_CONFIG": str(config), **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize(
    "redirections",
    [pytest.param(">&-", marks=pytest.mark.slow), pytest.param("2>&-", marks=pytest.mark.slow), "<&- >&- 2>&-"],
)
@pytest.mark.parametrize(
    "words", [*COMMANDS, *(pytest.param(words, marks=pytest.mark.slow) for words in OTHERS)], ids=" ".join
)
def test_a_closed_stream_costs_what_it_would_have_shown(config: Path, words: list[str], redirections: str) -> None:
    usual, done = call(config, words, ""), call(config, words, redirections)
    assert done.returncode == usual.returncode, done.stderr
    assert b"Traceback" not in done.stderr + usual.stderr
    if ">&-" not in redirections.replace("2>&-", ""):
        assert len(done.stdout.splitlines()) == len(usual.stdout.splitlines())
    assert not list(config.parent.glob("*journal*/*.db")), "nothing was started"


@pytest.mark.parametrize(
    "environ",
    [
        {"PYTHONIOENCODING": "ascii:strict"},
        pytest.param({"PYTHONIOENCODING": "latin1"}, marks=pytest.mark.slow),
        pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0"}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("words", [["--help"], ["config", "show"], ["check"]], ids=" ".join)
def test_what_a_terminal_cannot_show_is_escaped(config: Path, words: list[str], environ: dict[str, str]) -> None:
    usual, done = call(config, words, ""), call(config, words, "", **environ)
    assert done.returncode == usual.returncode, done.stderr
    assert b"Error" not in done.stderr


@contextlib.contextmanager
def reading(config: Path, tmp_path: Path, *before: str) -> Iterator[subprocess.Popen[bytes]]:
    """``meshbridge run`` that has begun to read its configuration, and waits for the rest of it."""
    fifo = tmp_path / "slow.yaml"
    os.mkfifo(fifo)
    command = [*before, *meshbridge_command("run", "--config", str(fifo))]
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
        fifo.open("w", encoding="utf-8") as writer,  # waits for the reader
    ):
        writer.write(config.read_text(encoding="utf-8"))
        writer.flush()
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_the_start_is_obeyed(config: Path, tmp_path: Path, number: signal.Signals) -> None:
    with reading(config, tmp_path) as process:
        process.send_signal(number)
        assert process.wait(DEADLINE_SECONDS) == 0


def test_the_first_process_of_a_container_obeys_a_stop_during_the_start(config: Path, tmp_path: Path) -> None:
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("a namespace of processes cannot be made here")
    with reading(config, tmp_path, *unshare) as process:
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0


def test_a_reload_during_the_start_waits_and_ends_nothing(config: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    fifo = tmp_path / "slow.yaml"
    os.mkfifo(fifo)
    with log.open("wb") as output:
        process = subprocess.Popen(meshbridge_command("run", "--config", str(fifo)), stderr=output, stdout=output)
    try:
        with fifo.open("w", encoding="utf-8") as writer:
            process.send_signal(signal.SIGHUP)
            writer.write(config.read_text(encoding="utf-8"))
            config.replace(fifo)  # what is read the next time
        wait_for(lambda: "configuration reload" in log.read_text(), "the reload")
    finally:
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0, log.read_text()


def test_the_entry_point_imports_nothing_slow() -> None:
    code = "import meshbridge.__main__, sys; print(*{'typer', 'pydantic', 'meshbridge.cli'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()


# What a bridge with one daemon and one MQTT sink has imported beside the standard library: each costs every host memory
# and time. A new one needs a reason in docs/adr.
ALLOWED_PACKAGES = {
    "annotated_types", "apscheduler", "bcrypt", "dotenv", "h11", "msgpack", "orjson", "paho", "prometheus_client",
    "pydantic", "pydantic_core", "pydantic_settings", "pyotp", "structlog", "typing_extensions", "typing_inspection",
    "tzdata", "tzlocal", "websocket", "yaml",
}  # fmt: skip
IMPORTED = """
import json, sys
from pathlib import Path
from meshbridge.config.load import load
from meshbridge.service.service import Service
service = Service(load(Path(sys.argv[1]), {}))
service.start()
origins = {name.partition(".")[0]: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
service.stop()
print(json.dumps(sorted(name for name, file in origins.items() if "site-packages" in file)))
"""


def test_a_bridge_with_one_mqtt_sink_imports_only_what_it_needs(tmp_path: Path) -> None:
    file = tmp_path / "meshbridge.yaml"
    settings = {
        "daemons": {"node-a": {"url": "tcp://127.0.0.1:1", "username": "bridge", "password": "none"}},
        "sinks": {"broker": {"type": "mqtt", "url": "mqtt://127.0.0.1:1"}},
        "journal": {"path": str(tmp_path / "journal")},
        "exporter": {"listen": "127.0.0.1:0"},
    }
    file.write_text(json.dumps(settings))
    done = subprocess.run([sys.executable, "-c", IMPORTED, str(file)], capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stdout.splitlines()[-1])) - {"_distutils_hack", "meshbridge"}
    assert not imported - ALLOWED_PACKAGES
    assert not {"requests", "urllib3", "rich", "fastapi", "jinja2", "typer"} & imported


def test_the_version_is_printed_without_the_command_line() -> None:
    code = "import sys; sys.argv[1:] = ['version']; import meshbridge.__main__ as m; m.main(); print(len(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, modules = done.stdout.split()
    assert version == meshbridge.__version__
    assert int(modules) < 150
