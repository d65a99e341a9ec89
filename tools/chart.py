"""Makes what the chart has of others: its README from the values, and its links to rules and dashboards.

    python -m tools.chart

A chart holds files of its own folder alone. Helm puts what a symbolic link leads to into the package, so each rule and
dashboard is tracked once. A test compares all of them with what this makes.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
CHART = DEPLOY / "helm" / "meshbridge"
README = CHART / "README.md"


def links() -> dict[Path, str]:
    """The target of each symbolic link, relative to the link."""
    originals = {
        "rules": [DEPLOY / "prometheus" / "alerts.yml", DEPLOY / "prometheus" / "rules.yml"],
        "dashboards": sorted((DEPLOY / "grafana").glob("*.json")),
    }
    return {
        CHART / folder / original.name: os.path.relpath(original, CHART / folder)
        for folder, files in originals.items()
        for original in files
    }


def present() -> dict[Path, str]:
    """What is in the chart's folders of links; empty where a file is no link."""
    files = [*(CHART / "rules").glob("*"), *(CHART / "dashboards").glob("*")]
    return {file: str(file.readlink()) if file.is_symlink() else "" for file in files}


def readme() -> str:
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    root = yaml.compose(values)
    assert isinstance(root, yaml.MappingNode)
    rows = [f"| `{key}` | {default} | {text} |" for key, default, text in _rows(root, values.splitlines(), "")]
    head = (DEPLOY / "helm" / "readme-head.md").read_text(encoding="utf-8")
    return head + "\n".join(["| key | default | |", "| --- | --- | --- |", *rows]) + "\n"


def _rows(node: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[tuple[str, str, str]]:
    """Key, default and description of each leaf, and of each key that has a description."""
    for key, value in node.value:
        above = lines[key.start_mark.line - 1].strip() if key.start_mark.line else ""
        text = above.removeprefix("# -- ") if above.startswith("# -- ") else ""
        if isinstance(value, yaml.MappingNode) and value.value and not text:
            yield from _rows(value, lines, f"{prefix}{key.value}.")
        else:
            yield f"{prefix}{key.value}", _default(value), text.replace("|", "\\|")


def _default(node: yaml.Node) -> str:
    value = yaml.safe_load(yaml.serialize(node))
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def main() -> None:
    README.write_text(readme(), encoding="utf-8")
    for path in present():
        path.unlink()
    for path, target in links().items():
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(target)


if __name__ == "__main__":
    main()
