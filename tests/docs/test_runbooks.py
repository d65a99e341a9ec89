"""docs/runbooks.md: a section for each alert, and nothing in it that does not exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from meshbridge.cli import app
from meshbridge.config.load import Settings
from tools.metrics import catalogue

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
SECTIONS = re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)


def test_each_alert_has_its_section_and_each_section_its_alert() -> None:
    assert [rule["alert"] for rule in ALERTS] == SECTIONS


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_links_to_its_section(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert (ROOT / page).is_file()
    assert anchor in [section.lower() for section in SECTIONS]  # as GitHub and GitLab make anchors of headings


def test_commands_and_their_options_exist() -> None:
    calls = re.findall(r"`meshbridge ([a-z][^`]*)`", PAGE)
    assert calls
    for call in calls:
        command: Any = typer.main.get_command(app)
        for word in call.split():
            if word.startswith("-"):
                assert word in {option for parameter in command.params for option in parameter.opts}
            else:
                command = command.commands[word]


def test_metrics_and_settings_exist() -> None:
    names = {metric.name for metric in catalogue()}
    recorded = {
        rule["record"]
        for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())["groups"]
        for rule in group["rules"]
    }
    for name in re.findall(r"`([a-z0-9_:]*(?:meshbridge|appmesh)_[a-z0-9_:]+)`", PAGE):
        assert name in names | recorded
    for part, key in re.findall(r"`(journal|exporter)\.(\w+)", PAGE):
        assert key in Settings.model_fields[part].annotation.model_fields  # type: ignore[union-attr]
