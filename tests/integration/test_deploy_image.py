"""The Dockerfile, the locks and the bill of materials, as far as they can be looked at without building the image."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import meshbridge

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = ("requirements.lock", "requirements-build.lock")


def pinned(lock: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes, by package."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    entries = re.split(r"^(?=[a-zA-Z0-9])", text, flags=re.MULTILINE)[1:]
    found: dict[str, tuple[str, int]] = {}
    for entry in entries:
        match = re.match(r"(\S+)==(\S+) \\\n", entry)
        assert match is not None, entry
        found[canonicalize_name(match[1])] = (match[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}", entry)))
    return found


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", ROOT / "Dockerfile"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_locked_to_a_version_and_hashes(lock: str) -> None:
    assert all(hashes for _, hashes in pinned(lock).values())


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_index(lock: str) -> None:
    assert not re.search(r"://|--index|--extra-index|--find-links", (ROOT / lock).read_text(encoding="utf-8"))


def test_the_lock_satisfies_the_project_and_the_extras_of_the_image() -> None:
    """``make lock`` writes it again."""
    extras = re.search(r'"meshbridge\[(\S+)\]"', DOCKERFILE)
    assert extras is not None
    wanted = [*PROJECT["project"]["dependencies"]]
    for extra in extras[1].split(","):
        wanted += PROJECT["project"]["optional-dependencies"][extra]
    locked = pinned("requirements.lock")
    for requirement in map(Requirement, wanted):
        version, _ = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_the_lock_of_the_build_satisfies_the_build_system() -> None:
    locked = pinned("requirements-build.lock")
    for requirement in map(Requirement, PROJECT["build-system"]["requires"]):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)][0]), requirement


def test_the_label_tells_the_version() -> None:
    assert f"ARG VERSION={meshbridge.__version__}\n" in DOCKERFILE


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert lines[1] == "*"
    copied = [
        source
        for arguments in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in arguments.split()[:-1]
    ]
    assert sorted(copied) == sorted(kept)
    assert all(any(fnmatch(path.name, name.split("/")[0]) for path in ROOT.iterdir()) for name in kept)


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "deploy" / "image" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bill_of_materials_has_what_is_installed_with_its_hashes(sbom: ModuleType) -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    bill = sbom.bill_of_materials(distributions(), lock)
    assert bill == sbom.bill_of_materials(distributions(), lock), "the same packages give the same text"
    assert json.dumps(bill)
    assert bill["metadata"]["component"]["purl"] == f"pkg:pypi/meshbridge@{meshbridge.__version__}"
    components = {component["name"]: component for component in bill["components"]}
    assert components["orjson"]["licenses"]
    references = components["orjson"]["externalReferences"]
    assert len(references[0]["hashes"]) == pinned("requirements.lock")["orjson"][1]
    needs = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    assert components["typer"]["purl"] in needs[bill["metadata"]["component"]["purl"]]
    assert set(needs) == {component["bom-ref"] for component in (*bill["components"], bill["metadata"]["component"])}
