"""Every benchmark runs: a short round of each, with its figures as JSON. What they say is judged by people."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2] / "benchmarks"
NAMES = sorted(path.stem for path in HERE.glob("*.py") if path.stem != "run")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("name", NAMES)
def test_a_short_round_gives_figures(name: str, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    command = [sys.executable, str(HERE / "run.py"), "--quick", "--json", str(file), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(file.read_text())[name]
