"""Power cuts at many points of a recorded run, each opened by the real program: ``replay.py``, ``oracle.py``."""

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.powercut.oracle import Promises, findings
from tests.powercut.replay import Cut, Disk, Mark, Operation, read_recording
from tests.support import program

pytestmark = [pytest.mark.slow, pytest.mark.needs("gcc"), pytest.mark.timeout(3600)]

HERE = Path(__file__).parent
POINTS = {"short": 100, "long": 4000}


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("recorder") / "recorder.so"
    compiler = program("gcc")
    assert compiler is not None
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, HERE / "recorder.c", "-ldl"], check=True)
    return library


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of starts say nothing new."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


def recorded(recorder: Path, tmp_path: Path, sync: str, seed: int) -> list[Operation | Mark]:
    root, log = tmp_path / "run", tmp_path / "recording"
    root.mkdir()
    # The recorder ends with the process, so that the replay below is of all that it did.
    subprocess.run(
        [sys.executable, "-m", "tests.powercut.script", root, sync, str(seed)],
        check=True,
        cwd=HERE.parents[1],
        env={"LD_PRELOAD": str(recorder), "POWERCUT_ROOT": str(root), "POWERCUT_LOG": str(log), "PYTHONPATH": "."},
        stdout=subprocess.DEVNULL,
        timeout=600,
    )
    return list(read_recording(log, root))


def cut_findings(
    recording: list[Operation | Mark], points: int, seed: int, tmp_path: Path, *, promised_at_sync: bool = False
) -> Counter[str]:
    """What is found at so many points, by its text with the numbers left out.

    ``promised_at_sync``: an event is promised once the journal's WAL was synced after it was appended.
    """
    chance = random.Random(seed)
    operations = [place for place, record in enumerate(recording) if isinstance(record, Operation)]
    # The first moments are denser: creation is short, and each of its steps counts.
    chosen = {*operations[:80:4], *chance.choices(operations, k=points)}
    disk, found = Disk(), Counter[str]()
    promised = Promises(seen_is_durable=not promised_at_sync)
    appended = Promises()  # and in memory, or in the kernel's
    for place, record in enumerate(recording):
        if isinstance(record, Mark):
            appended.take(record)
            if promised_at_sync:
                promised.seen = appended.seen
            else:
                promised.take(record)
            continue
        disk.apply(record)
        if promised_at_sync and record.kind == "sync" and record.path.endswith(("journal.db-wal", "journal.db")):
            promised.durable = appended.durable
        if place in chosen:
            root = tmp_path / "cut"
            root.mkdir()
            cut = chance.choice(list(Cut))
            disk.cut(cut, chance, root)
            for text in findings(root, promised):
                found["".join("#" if character.isdigit() else character for character in f"{cut.value}: {text}")] += 1
            shutil.rmtree(root)
    return found


@pytest.fixture
def points(request: pytest.FixtureRequest) -> int:
    return POINTS[request.config.getoption("--faults")]


@pytest.fixture
def seed(points: int) -> int:
    """Of the run and of the cuts; another one each time where there are many."""
    return 1 if points == POINTS["short"] else int(os.environ.get("SEED") or random.randrange(2**31))


def test_a_power_cut_at_any_point_costs_nothing_that_was_promised(
    recorder: Path, tmp_path: Path, points: int, seed: int
) -> None:
    recording = recorded(recorder, tmp_path, "group", seed)
    found = cut_findings(recording, points, seed, tmp_path)
    assert not found, f"SEED={seed}: {dict(found)}"


def test_with_a_time_a_power_cut_costs_what_was_not_synced_and_nothing_else(
    recorder: Path, tmp_path: Path, points: int, seed: int
) -> None:
    recording = recorded(recorder, tmp_path, "5ms", seed)
    found = cut_findings(recording, points // 2, seed, tmp_path, promised_at_sync=True)
    assert not found, f"SEED={seed}: {dict(found)}"


def test_without_fsync_the_same_cuts_find_losses(recorder: Path, tmp_path: Path) -> None:
    """The control: these tests can fail."""
    recording = recorded(recorder, tmp_path, "none", 1)
    found = cut_findings(recording, 20, 1, tmp_path)
    assert sum(count for text, count in found.items() if "events lost" in text) > 10
