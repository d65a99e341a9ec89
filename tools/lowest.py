"""``python -m tools.lowest`` prints pyproject.toml's lower bounds as pip's constraints, for ``make test-lowest``."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["constraints"]

ROOT = Path(__file__).parents[1]
_EXTRAS = ("amqp", "demo", "kafka", "nats", "notify", "otlp", "redis")  # what a user installs; not the tests' own


def constraints() -> Iterator[str]:
    """``name==lowest`` for every dependency with a lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *(line for extra in _EXTRAS for line in extras.get(extra, ()))]:
        requirement = Requirement(line)
        for bound in requirement.specifier:
            if bound.operator == ">=":
                yield f"{requirement.name}=={bound.version}"


if __name__ == "__main__":
    print("\n".join(constraints()))
