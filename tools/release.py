"""``make release-check``: what can be checked before a release, and what is left for a person.

Exits with 1 where something is not as it has to be. Changes nothing but the generated files, if they are stale.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import meshbridge

ROOT = Path(__file__).parents[1]

_GENERATORS = (
    "tools.api", "tools.configuration", "tools.manpage", "tools.metrics", "tools.logs", "tools.layers", "tools.stable",
    "tools.write_dashboards", "tools.chart",
)  # fmt: skip
_IN_THE_WHEEL = (
    "meshbridge/py.typed",
    "lib/systemd/system/meshbridge.service",
    "lib/systemd/system/meshbridge@.service",
    "share/man/man1/meshbridge.1",
    "share/bash-completion/completions/meshbridge",
)
_BY_HAND = """\
1. make lint test-all        on a clean checkout, green
2. make faults                green; keep the seed that it prints
3. make bench                 compare with the figures in README.md and docs/operations.md
4. make demo                  look at it once
5. git tag -s v{version} && git push --tags
6. make dist                 on the tag; upload what is in dist/ by the project's own account
7. begin a new `## Unreleased` in CHANGELOG.md"""


def changelog(text: str, version: str) -> Iterator[str]:
    """What is wrong with the changelog for a release of this version."""
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    if not any(re.fullmatch(rf"{re.escape(version)} - \d{{4}}-\d\d-\d\d", heading) for heading in headings):
        yield f"CHANGELOG.md: no heading `## {version} - YYYY-MM-DD`: what is under Unreleased becomes that"
    unreleased = re.search(r"^## Unreleased\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if unreleased and unreleased[1].strip():
        yield "CHANGELOG.md: something is still under Unreleased"


def repository(version: str) -> Iterator[str]:
    if changed := _run("git", "status", "--porcelain"):
        yield f"the working tree has changes: {', '.join(line[3:] for line in changed.splitlines()[:5])}"
    if _run("git", "tag", "--list", f"v{version}"):
        yield f"there is a tag v{version} already: raise __version__ in meshbridge/__init__.py"


def generated() -> Iterator[str]:
    """Files that are generated from the code, written again."""
    before = _run("git", "status", "--porcelain")
    for module in _GENERATORS:
        _run(sys.executable, "-m", module)
    if _run("git", "status", "--porcelain") != before:
        yield "generated files were stale, and are written again: look at them, and commit"


def locked() -> Iterator[str]:
    """Every runtime dependency has its place in the image's lock file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = set(
        re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for requirement in project["dependencies"]:
        name = re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower()
        if name not in pinned:
            yield f"requirements.lock lacks {name}: make lock"


def wheel(version: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        _run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", directory)
        (built,) = Path(directory).glob("*.whl")
        if f"-{version}-" not in built.name:
            yield f"the wheel is called {built.name}, not of version {version}"
        names = zipfile.ZipFile(built).namelist()
        for wanted in _IN_THE_WHEEL:
            if not any(name.endswith(wanted) for name in names):
                yield f"the wheel lacks {wanted}"


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout.rstrip()


def main() -> int:
    version = meshbridge.__version__
    checks: dict[str, Callable[[], Iterator[str]]] = {
        "changelog": lambda: changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version),
        "repository": lambda: repository(version),
        "generated files": generated,
        "locked dependencies": locked,
        "wheel": lambda: wheel(version),
    }
    print(f"release of {version}")
    failed = False
    for name, check in checks.items():
        problems = list(check())
        failed = failed or bool(problems)
        print(f"{'FAIL' if problems else 'ok  '} {name}")
        for problem in problems:
            print(f"     -> {problem}")
    print(f"\nby hand:\n{_BY_HAND.format(version=version)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
