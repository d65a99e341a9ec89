"""The files of the status page: the plotting library is the one that was published, with its licence."""

import hashlib
from pathlib import Path

import pytest

from meshbridge.admin import page

STATIC = Path(page.__file__).parent / "static"
UPLOT = {  # uplot 1.6.32 of npm, package/dist and package/LICENSE
    "uPlot.esm.js": "5dd9b3281aa64b461b42d9945f6adb2649d346502b12281a9ae0d46599a80eba",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uPlot.LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}


@pytest.mark.parametrize("name", UPLOT)
def test_a_file_of_uplot_is_as_it_was_published(name: str) -> None:
    assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == UPLOT[name]


def test_no_other_file_comes_from_elsewhere() -> None:
    own = {path.name for path in STATIC.iterdir()} - set(UPLOT)
    assert not [name for name in own if "min" in name or (STATIC / name).stat().st_size > 20_000]


def test_the_licence_is_in_the_wheel_and_named_in_its_metadata() -> None:
    settings = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    assert 'license = "Apache-2.0 AND MIT"' in settings
    assert "meshbridge/admin/page/static/uPlot.LICENSE" in settings
