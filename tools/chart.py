"""Makes what the chart has of others: its README from the values, and its copies of rules and dashboards.

    python -m tools.chart

A chart holds files of its own folder alone, so that rules and dashboards have to be copied. A test holds all of them
to what this makes.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
CHART = DEPLOY / "helm" / "meshbridge"


def generated() -> dict[Path, str]:
    """The content of each generated file."""
    files = {CHART / "README.md": _readme()}
    for name in ("alerts.yml", "rules.yml"):
        files[CHART / "rules" / name] = (DEPLOY / "prometheus" / name).read_text(encoding="utf-8")
    for dashboard in sorted((DEPLOY / "grafana").glob("*.json")):
        files[CHART / "dashboards" / dashboard.name] = dashboard.read_text(encoding="utf-8")
    return files


def surplus() -> list[Path]:
    """Copies whose original is gone."""
    kept = [*(CHART / "rules").iterdir(), *(CHART / "dashboards").iterdir()]
    return sorted(set(kept) - generated().keys())


def _readme() -> str:
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
    for path in surplus():
        path.unlink()
    for path, content in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
