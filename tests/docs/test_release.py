"""What is checked before a release, and what a release ships."""

import subprocess
import tarfile
from pathlib import Path

import yaml

from meshbridge import __version__
from tools import dist
from tools.release import changelog, locked, wheel

READY = "# Changelog\n\n## Unreleased\n\n## 1.2.0 - 2026-11-25\n\n### Added\n- Something.\n"


def test_a_changelog_that_is_ready() -> None:
    assert list(changelog(READY, "1.2.0")) == []


def test_a_changelog_without_the_version_or_with_a_rest() -> None:
    assert [problem.split(":")[1].split("`")[0].strip() for problem in changelog(READY, "1.3.0")] == ["no heading"]
    rest = READY.replace("## Unreleased\n", "## Unreleased\n\n- Not yet.\n")
    assert list(changelog(rest, "1.2.0")) == ["CHANGELOG.md: something is still under Unreleased"]


def test_the_image_has_every_dependency_and_the_wheel_what_belongs_in_it() -> None:
    assert list(locked()) == []
    assert list(wheel(__version__)) == []
    assert list(wheel("9.9.9")) != []


def test_the_chart_of_a_release_is_whole_and_the_same_each_time(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
        dist.chart(folder)
    (archive,) = first.iterdir()
    assert archive.read_bytes() == (second / archive.name).read_bytes()
    with tarfile.open(archive) as opened:
        names = set(opened.getnames())
        metadata = opened.extractfile("meshbridge/Chart.yaml")
        assert metadata is not None
        assert yaml.safe_load(metadata)["version"] in archive.name
    tracked = subprocess.run(
        ["git", "ls-files", "deploy/helm/meshbridge"], cwd=dist.ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert names == {name.removeprefix("deploy/helm/") for name in tracked}
