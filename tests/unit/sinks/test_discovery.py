"""Sinks of other packages, found by their entry points."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, TypeAdapter

from meshbridge.sinks.discovery import Discovered, discover
from meshbridge.sinks.file import FileOptions
from tests.contract.sinks.far_lines import GUIDE


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of installed packages."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("other_"):
            del sys.modules[name]


def install(site: Path, package: str, source: str, *points: str) -> None:
    (site / f"{package}.py").write_text(source, encoding="utf-8")
    information = site / f"{package}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
    (information / "entry_points.txt").write_text("[meshbridge.sinks]\n" + "\n".join(points), encoding="utf-8")


def found(site: Path) -> Discovered:
    del site
    return discover([FileOptions])


def test_a_package_brings_a_sink(site: Path) -> None:
    source = GUIDE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    install(site, "other_lines", source, "lines = other_lines:LinesOptions")
    models = found(site).models
    assert [model.__name__ for model in models] == ["FileOptions", "LinesOptions"]
    assert found(site).problems == ()
    union = Annotated[models[0] | models[1], Field(discriminator="type")]  # type: ignore[valid-type]
    options = TypeAdapter(union).validate_python({"type": "lines", "host": "h", "port": 1, "from": "start"})
    assert type(options).__name__ == "LinesOptions"


def test_what_cannot_be_used_is_left_out_and_said(site: Path) -> None:
    source = "from meshbridge.sinks.file import FileOptions\nthing = 3\n"
    points = ["file = other_bad:FileOptions", "odd = other_bad:thing", "misnamed = other_bad:FileOptions"]
    install(site, "other_bad", source, *points, "gone = other_bad:nothing")
    install(site, "other_broken", "import no_such_module_at_all", "broken = other_broken:X")
    discovered = found(site)
    assert discovered.models == (FileOptions,)
    misnamed = "other_bad:FileOptions has no type: Literal['misnamed']"
    assert list(discovered.problems) == [
        "sink type broken of package other_broken cannot be used: No module named 'no_such_module_at_all'",
        "sink type file of package other_bad is left out: there is one of that name",
        "sink type gone of package other_bad cannot be used: module 'other_bad' has no attribute 'nothing'",
        f"sink type misnamed of package other_bad cannot be used: {misnamed}",
        "sink type odd of package other_bad cannot be used: other_bad:thing is no subclass of SinkOptions",
    ]
