"""The official client of 3.x: in an environment of its own, since it shares its name with that of 2.x."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

REQUIREMENT = "appmesh==3.0.14"
NAME = "appmesh_3"


def python_of(cache: pytest.Cache) -> Path:
    """The interpreter of an environment that holds it; made once, and kept in pytest's cache directory."""
    environment = cache.mkdir(REQUIREMENT.replace("==", "-"))
    python = environment / "bin" / "python"
    ready = environment / ".ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        install: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            REQUIREMENT,
        ]
        subprocess.run(install, check=True)
        ready.touch()
    return python


def load(python: Path) -> ModuleType:
    """The package of that environment under another name, beside that of 2.x."""
    if NAME in sys.modules:
        return sys.modules[NAME]
    (directory,) = python.parent.parent.glob("lib/python*/site-packages/appmesh")
    spec = importlib.util.spec_from_file_location(
        NAME, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module
