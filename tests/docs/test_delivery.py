"""docs/delivery.md: its examples are settings, and every rule, ending, reason and command has its place."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from meshbridge.cli import app
from meshbridge.config.load import load
from meshbridge.fields import Reshape, RetryWaits, Selection, When
from meshbridge.sinks import base
from tests.support import write_config

PAGE = (Path(__file__).parents[2] / "docs" / "delivery.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
DAEMONS = {"node-a": {"url": "tcp://127.0.0.1:6059", "username": "bridge", "password": "secret"}}


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_what_a_bridge_can_be_given(example: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"daemons": DAEMONS} | yaml.safe_load(example)
    loaded = load(write_config(tmp_path / "meshbridge.yaml", settings), {})
    for name in settings.get("sinks", {}):
        assert loaded.sinks[name].build(name, tmp_path)


def test_each_rule_has_a_row_and_a_part_in_an_example() -> None:
    table = PAGE.partition("\n## Rules\n")[2].partition("\n## ")[0]
    rules = {f"when.{name}" for name in When.model_fields} | set(Selection.model_fields) - {"when"}
    missing = {rule for rule in rules if f"`{rule}`" not in table.partition("```yaml")[0]}
    assert not missing
    keys = [*When.model_fields, *Reshape.model_fields, *(set(Selection.model_fields) - {"when"})]
    assert not [key for key in keys if f"{key}:" not in table]
    assert all(f"{key}:" in PAGE or f"`{key}`" in PAGE for key in RetryWaits.model_fields)


def test_each_ending_of_a_write_has_a_row() -> None:
    endings = [kind for kind in vars(base).values() if isinstance(kind, type) and issubclass(kind, base.SinkError)]
    assert not [kind.__name__ for kind in endings if kind is not base.SinkError and f"| `{kind.__name__}`" not in PAGE]


@pytest.mark.parametrize("reason", ["age", "size", "overload", "not_written", "damaged"])
def test_each_reason_for_which_a_sink_never_gets_an_event_is_told(reason: str) -> None:
    assert f"`{reason}`" in PAGE


def test_each_command_exists() -> None:
    commands = re.findall(r"(?:^|`)meshbridge ((?:[a-z]+(?:-[a-z]+)? ?){1,2})", PAGE, re.MULTILINE)
    assert len(commands) >= 9
    for command in {command.strip() for command in commands}:
        assert CliRunner().invoke(app, [*command.split(), "--help"]).exit_code == 0, command
