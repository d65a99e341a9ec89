"""``python -m tools.layers`` draws the parts of meshbridge in ``docs/design.md``, from what they import.

An arrow leads from a part to one that it imports. What follows from other arrows is left out, and so are the parts that
every other one may use (``telemetry``, ``fields``, ``outside``).
"""

import re
from collections.abc import Mapping
from pathlib import Path

import grimp

__all__ = ["PAGE", "picture", "reduced", "updated"]

PAGE = Path(__file__).parents[1] / "docs" / "design.md"
_BLOCK = re.compile(r"(<!-- layers: begin -->\n).*?(<!-- layers: end -->)", re.DOTALL)
_EVERYWHERE = frozenset({"telemetry", "fields", "outside"})

Imports = Mapping[str, frozenset[str]]


def _imports() -> dict[str, frozenset[str]]:
    """Each part of the package, and the parts that it imports directly."""
    graph = grimp.build_graph("meshbridge")
    parts = {module.split(".")[1] for module in graph.modules if "." in module} - _EVERYWHERE
    found: dict[str, set[str]] = {part: set() for part in parts}
    for module in graph.modules:
        part = module.split(".")[1] if "." in module else ""
        if part in parts:
            imported = {name.split(".")[1] for name in graph.find_modules_directly_imported_by(module) if "." in name}
            found[part] |= (imported & parts) - {part}
    return {part: frozenset(others) for part, others in found.items()}


def reduced(imports: Imports) -> dict[str, frozenset[str]]:
    """Without the arrows that follow from others: a → c, where a → b → c."""

    def below(part: str) -> frozenset[str]:
        return imports[part].union(*(below(one) for one in imports[part]))

    return {
        part: frozenset(one for one in others if not any(one in below(other) for other in others - {one}))
        for part, others in imports.items()
    }


def picture(imports: Imports) -> str:
    """A flowchart for Mermaid, which the forges draw."""
    lines = ["flowchart TD"]
    lines += [f"    {part} --> {other}" for part in sorted(imports) for other in sorted(imports[part])]
    return "\n".join(["```mermaid", *lines, "```", ""])


def updated(page: str) -> str:
    """The page with a new picture, which stands between two comments."""
    return _BLOCK.sub(lambda found: found[1] + picture(reduced(_imports())) + found[2], page)


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
