"""docs/release.py: what it finds wrong, and what not."""

from meshbridge import __version__
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
