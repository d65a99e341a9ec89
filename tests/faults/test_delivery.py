"""Sinks that are dead, slow or ill-tempered, a disk that is full, a journal that is damaged: from the daemon to the
destinations, with an oracle that holds what arrived against what was journaled.

``make faults`` has a million events wait for dead sinks and damages journals at random, ``make test-slow`` does less;
the seed is printed, and taken from SEED.
"""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import paho.mqtt.client as paho
import pytest

from meshbridge.emulator import Emulator
from tests.contract.sinks.http_server import Exchange, HttpServer
from tests.e2e.conftest import Bridge, daemon_settings
from tests.faults.arrivals import Journaled, check_delivered, journaled
from tests.faults.proxy import Proxy
from tests.support import Mosquitto, Subscriber, free_port, wait_for

pytestmark = pytest.mark.slow

APPS = [f"app-{number}" for number in range(20)]
_BATCH = 100  # of the hook
_LINES = 500  # of the file, in one write; what a kill has come again is two of them at most (docs/delivery.md)
_WAITS = {"initial": "50ms", "max": "200ms"}


class Hook:
    """A web hook that takes batches, refuses them for now, or takes its time."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.mood = "fine"
        self.server = HttpServer(self._meet)
        self.server.port = free_port()
        self.server.start()

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "type": "webhook",
            "url": self.server.url,
            "batch": {"max_events": _BATCH},
            "retry": _WAITS,
            "from": "start",
        }

    def _meet(self, exchange: Exchange) -> None:
        if self.mood == "errors":
            exchange.answer(503)
            return
        if self.mood == "slow":
            exchange.ended.wait(3.0)
        self.ids += [event["id"] for event in orjson.loads(exchange.request.body)]
        self.server.requests.clear()
        exchange.answer(204)


class Ids(Subscriber):
    """Keeps the ids alone: of a million messages nothing else fits."""

    def __init__(self, port: int) -> None:
        super().__init__(port, "meshbridge/#")
        self.ids: list[str] = []

    def _take(self, _client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        if not message.topic.endswith(("/state", "/availability")):
            self.ids.append(orjson.loads(message.payload)["id"])


class Lines:
    """The ids in a file of JSON lines, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ids: list[str] = []
        self._place = 0

    @property
    def ids(self) -> list[str]:
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._place)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._place += len(line)
                    self._ids.append(orjson.loads(line)["id"])
        return self._ids

    @property
    def settings(self) -> dict[str, Any]:
        return {"type": "file", "path": str(self.path), "from": "start"}


class Scene:
    """A bridge whose sinks are a file and a hook, and whatever a test adds."""

    def __init__(self, directory: Path, emulator: Emulator, journal: Path | None = None) -> None:
        self.emulator = emulator
        self.hook = Hook()
        self.lines = Lines(directory / "lines.jsonl")
        self.journal = journal or directory / "journal"
        sinks = {"hook": self.hook.settings, "lines": self.lines.settings}
        settings = {"daemons": {"node-a": daemon_settings(emulator)}, "sinks": sinks}
        self.bridge = Bridge(directory, settings | {"journal": {"path": str(self.journal)}})
        self._number = 0

    def start(self) -> None:
        self.bridge.start()
        self.bridge.wait_up()

    def emit(self, count: int) -> int:
        """Output of twenty apps in turn; gives the daemon's number of the last."""
        first, self._number = self._number, self._number + count
        return self.emulator.emit_many(
            (APPS[number % len(APPS)], "STDOUT", {"finished": False, "output": f"{number}\n" * 20, "position": number})
            for number in range(first, first + count)
        )

    def metric(self, name: str, **labels: str) -> float:
        """The value of a series of the bridge's own; 0 where there is none."""
        with urllib.request.urlopen(self.bridge.metrics_url, timeout=10) as answer:
            text = answer.read().decode()
        for line in re.findall(rf"^{name}(?:{{.*}})? .*$", text, re.MULTILINE):
            if all(f'{label}="{value}"' in line for label, value in labels.items()):
                return float(line.rpartition(" ")[2])
        return 0.0

    def end(self, number: int = signal.SIGTERM) -> Journaled:
        """What the journal has then."""
        status = self.bridge.process.end(number)
        assert status == (0 if number == signal.SIGTERM else -number), self.bridge.process.output()[-4000:]
        self.bridge.process.log.rename(self.bridge.process.log.with_suffix(f".{self._number}.log"))
        return journaled(self.journal)

    def close(self) -> None:
        self.bridge.close()
        self.hook.server.stop()


@pytest.fixture
def scene(tmp_path: Path, emulator: Emulator) -> Iterator[Scene]:
    made = Scene(tmp_path, emulator)
    yield made
    made.close()


def waits(request: pytest.FixtureRequest) -> float:
    """Seconds for a round of this size."""
    return 3000.0 if request.config.getoption("--faults") == "long" else 60.0


# --- dead sinks ----------------------------------------------------------------------------------------------------


@pytest.mark.needs("mosquitto")
def test_dead_slow_and_failing_sinks_get_everything_later_and_hold_nobody_up(
    tmp_path: Path, emulator: Emulator, scene: Scene, mosquitto: Mosquitto, request: pytest.FixtureRequest
) -> None:
    """A broker that is silent, a hook that answers 503, one that is slow; beside them a file and another broker."""
    count = {"short": 4000, "long": 1_000_000}[request.config.getoption("--faults")]
    slow = Hook()
    sinks = scene.bridge.settings["sinks"]
    sinks |= {"slow": slow.settings, "broker": {"type": "mqtt", "url": mosquitto.url}}
    with (
        Mosquitto(tmp_path / "dead") as broker,
        Proxy(("127.0.0.1", broker.port)) as dead,
        Ids(broker.port) as late,
        Ids(mosquitto.port) as delivered,
    ):
        sinks["dead"] = {"type": "mqtt", "url": f"mqtt://127.0.0.1:{dead.address[1]}", "retry": _WAITS, "from": "start"}
        dead.black_hole()
        scene.hook.mood, slow.mood = "errors", "slow"
        scene.start()
        scene.emit(count)
        wait_for(lambda: len(scene.lines.ids) >= count, "every line in the file", waits(request))
        wait_for(lambda: len(delivered.ids) >= count, "every message", waits(request))
        assert scene.hook.ids == []
        assert len(slow.ids) < count
        for sink in ("hook", "dead"):
            assert scene.metric("meshbridge_sink_up", sink=sink) == 0
            assert scene.metric("meshbridge_sink_lag_events", sink=sink) == count
        dead.heal()
        scene.hook.mood = slow.mood = "fine"
        for name, far in {"hook": scene.hook, "slow": slow, "dead": late}.items():
            wait_for(lambda far=far: len(far.ids) >= count, f"everything at {name}", waits(request))  # type: ignore[misc]
        kept = scene.end()
    slow.server.stop()
    assert len(kept) == count
    for name, ids in {
        "hook": scene.hook.ids, "slow": slow.ids, "dead": late.ids, "lines": scene.lines.ids, "broker": delivered.ids,
    }.items():  # fmt: skip
        assert check_delivered(kept, ids, twice_at_most=0) == set(), name


# --- a full disk ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """A file system of 6 MiB in a directory; skips the test where this user may not mount one."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "tmpfs", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"may not mount a small disk: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Takes all the room that is left."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


def until_it_is_full(scene: Scene) -> None:
    """More is journaled until the disk takes no more, which the log says."""
    for _ in range(200):
        scene.emit(100)
        if "journal fault" in scene.bridge.process.output():
            return
        wait_for(lambda: len(scene.lines.ids) == scene._number, "the events")
    raise AssertionError("the disk is never full")


def test_a_full_disk_is_ridden_out_and_left_behind(tmp_path: Path, emulator: Emulator) -> None:
    """Events go on through memory; once there is room they are on disk, in the order in which they came."""
    with small_disk(tmp_path / "disk"), contextlib.closing(Scene(tmp_path, emulator, tmp_path / "disk/j")) as scene:
        scene.hook.mood = "errors"  # so that the journal matters
        scene.start()
        scene.emit(500)
        wait_for(lambda: len(scene.lines.ids) == 500, "events before")
        filler = fill(tmp_path / "disk")
        until_it_is_full(scene)
        scene.emit(1000)
        wait_for(lambda: len(scene.lines.ids) == scene._number, "events from memory")
        assert scene.metric("meshbridge_journal_faults_total", reason="full") == 1
        scene.hook.mood = "fine"
        wait_for(lambda: len(set(scene.hook.ids)) == scene._number, "the same at the hook")
        filler.unlink()
        scene.bridge.process.wait_for_output("journal recovered")
        scene.emit(500)
        wait_for(lambda: len(set(scene.hook.ids)) == scene._number, "events after")
        wait_for(lambda: len(scene.lines.ids) == scene._number, "events after")
        assert scene.bridge.process.output().count("journal fault") == 1
        kept = scene.end()
        assert len(kept) == scene._number
        assert check_delivered(kept, scene.hook.ids, twice_at_most=0) == set()
        assert check_delivered(kept, scene.lines.ids, twice_at_most=0) == set()


def test_a_file_that_may_not_grow_is_ridden_out_too(scene: Scene) -> None:
    """The same for any user: the process may write no larger files, and later may."""
    scene.hook.mood = "errors"
    scene.start()
    scene.emit(500)
    wait_for(lambda: len(scene.lines.ids) == 500, "events before")
    wal = (scene.journal / "journal.db-wal").stat().st_size
    pid = scene.bridge.process.popen.pid
    limit = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (wal, limit[1]))
    scene.bridge.process.log.write_text("")  # the limit is for every file
    for _ in range(100):
        scene.emit(10)
        if scene.metric("meshbridge_journal_faults_total"):
            break
    assert scene.metric("meshbridge_journal_faults_total") == 1
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)
    scene.hook.mood = "fine"
    scene.bridge.process.wait_for_output("journal recovered")
    for far in (scene.hook, scene.lines):
        wait_for(lambda far=far: len(set(far.ids)) == scene._number, "everything")  # type: ignore[misc]
    kept = scene.end()
    assert len(kept) == scene._number
    assert check_delivered(kept, scene.hook.ids, twice_at_most=0) == set()
    assert check_delivered(kept, scene.lines.ids, twice_at_most=0) == set()


# --- damage --------------------------------------------------------------------------------------------------------


def flip(file: Path, chance: random.Random) -> None:
    """Inverts 300 bytes somewhere in a file."""
    content = bytearray(file.read_bytes())
    start = chance.randrange(len(content))
    content[start : start + 300] = bytes(byte ^ 0xFF for byte in content[start : start + 300])
    file.write_bytes(content)


def cut(file: Path, chance: random.Random) -> None:
    size = file.stat().st_size
    os.truncate(file, chance.randrange(size // 4, size))


Damage = Callable[[Path, random.Random], object]
DAMAGES: dict[str, Damage] = {
    "flipped": lambda journal, chance: flip(journal / "journal.db", chance),
    "cut short": lambda journal, chance: cut(journal / "journal.db", chance),
    "empty": lambda journal, _: (journal / "journal.db").write_bytes(b""),
    "another file": lambda journal, _: (journal / "journal.db").write_text("a shopping list\n" * 3000),
    "no WAL": lambda journal, _: (journal / "journal.db-wal").unlink(),
    "flipped WAL": lambda journal, chance: flip(journal / "journal.db-wal", chance),
}
_NOTHING_LEFT = {"empty", "another file"}  # to be read


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "damage" in metafunc.fixturenames:
        long = metafunc.config.getoption("--faults") == "long"
        metafunc.parametrize("damage", DAMAGES if long else ["flipped", "no WAL"])


def test_after_damage_everything_that_can_be_read_is_delivered_and_the_rest_is_told(
    scene: Scene, damage: str, request: pytest.FixtureRequest
) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(2**32))
    print(f"seed {seed}")  # noqa: T201 pytest shows it where the test fails
    chance = random.Random(seed)
    for _ in range({"short": 1, "long": 15}[request.config.getoption("--faults")]):
        _damage(scene, damage, chance)
        shutil.rmtree(scene.journal)
        scene.lines.path.unlink()
        scene.hook.ids.clear()
        scene.lines = Lines(scene.lines.path)
        scene._number = 0


def _damage(scene: Scene, damage: str, chance: random.Random) -> None:
    scene.hook.mood = "errors"
    scene.start()
    scene.emit(chance.randrange(1500, 4000))
    wait_for(lambda: len(scene.lines.ids) == scene._number, "the first events")
    scene.end()  # in good order: all of it is in the database
    scene.start()
    scene.emit(chance.randrange(200, 600))
    wait_for(lambda: len(scene.lines.ids) == scene._number, "the next events")
    kept = scene.end(signal.SIGKILL)  # these are in the WAL
    saved_lines = len(scene.lines.ids)
    DAMAGES[damage](scene.journal, chance)
    damaged = (scene.journal / "journal.db").read_bytes()

    scene.hook.mood = "fine"
    scene.start()
    last = scene.emit(200)
    for far in (scene.hook, scene.lines):
        wait_for(lambda far=far: any(one.endswith(f"/{last}") for one in far.ids[-_LINES:]), f"{last}")  # type: ignore[misc]
    told = scene.metric("meshbridge_events_dropped_total", sink="hook", reason="damaged")
    faults = scene.metric("meshbridge_journal_faults_total", reason="damaged")
    after = scene.end()

    asides = [file for file in scene.journal.glob("journal.db.damaged-*") if not file.name.endswith(("-wal", "-shm"))]
    assert len(asides) == faults
    if damage in _NOTHING_LEFT:
        assert [file.read_bytes() for file in asides] == [damaged]
    everything = Journaled({**kept.apps, **after.apps})
    gaps, delivered = _gaps_apart(scene.hook.ids)
    lost = check_delivered(everything, delivered, twice_at_most=_BATCH)
    lost -= {one for one in lost if "/gap/" in one}
    assert set(after.apps) - lost == set(after.apps), "what the fresh journal has was delivered"
    untold = {one for one in lost if int(one.rpartition("/")[2]) not in gaps}
    if damage not in _NOTHING_LEFT:
        assert len(untold) <= told
    again = set(scene.lines.ids[:saved_lines]) & set(scene.lines.ids[saved_lines:])
    assert len(again) <= 2 * _LINES, "what the file had before came again"


def _gap_ids(ids: Sequence[str]) -> list[str]:
    return [one for one in ids if "/gap/" in one]


def _gaps_apart(ids: Sequence[str]) -> tuple[set[int], list[str]]:
    """(the numbers that a gap event told, all other ids)."""
    told: set[int] = set()
    for one in _gap_ids(ids):
        first, _, last = one.rpartition("/")[2].partition("-")
        told |= set(range(int(first), int(last) + 1))
    return told, [one for one in ids if "/gap/" not in one]
