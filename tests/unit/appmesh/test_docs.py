"""Each example of docs/sdk.md runs."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshbridge.emulator import Emulator, EmulatorOptions
from tests.unit.appmesh.fakes import no_thread_left

GUIDE = Path(__file__).parents[3] / "docs" / "sdk.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions()) as running:
        yield running


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number: int, emulator: Emulator, tmp_path: Path) -> None:
    assert emulator.https_address
    code = (
        EXAMPLES[number]
        .replace("/tmp/appmesh.cookies", str(tmp_path / "cookies"))
        .replace('("127.0.0.1", 6059)', repr(emulator.tcp_address))
        .replace("https://127.0.0.1:6060", "https://{}:{}".format(*emulator.https_address))
        .replace("/opt/appmesh/ssl/ca.pem", str(emulator.ca_file))
    )
    with no_thread_left():
        exec(compile(code, f"{GUIDE.name}, example {number + 1}", "exec"), {"__name__": "example"})


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 6


def test_every_public_name_is_in_the_guide() -> None:
    from meshbridge.appmesh import exceptions

    text = GUIDE.read_text(encoding="utf-8")
    names = {"AppMeshClient", "AppMeshClientTCP", "AppMeshClientWSS", "AppMeshClientOAuth", "AppMeshServerTCP"}
    for name in names | (set(exceptions.__all__) - {"AppMeshError"}):
        assert f"`{name}" in text or f"{name}(" in text, name
