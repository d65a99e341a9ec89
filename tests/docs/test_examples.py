"""What the guides show can be used as it is shown: configurations load, commands exist, metrics and settings too."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from meshbridge.cli import app
from meshbridge.config.load import Settings, load
from tests.docs.pages import GUIDES, ROOT, Page
from tools.configuration import catalogue as settings
from tools.metrics import catalogue as metrics

each_guide = pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
PARTS = set(Settings.model_fields)
MINIMAL = {"daemons": {"node-a": {"url": "tcp://h", "username": "u", "password": "p"}}}
HASH = "ab" * 32
CALL = re.compile(r"(?<!=)\bmeshbridge ((?:[a-z][a-z-]*)(?: [^\n|&;#`)]*)?)")


def configurations(page: Page) -> list[dict[str, Any]]:
    """The blocks of YAML that are meshbridge's, not those of Prometheus, Compose, Helm or so."""
    if page.path.is_relative_to(ROOT / "deploy" / "helm"):
        return []  # of the chart's values, which have parts of the same names; the chart's tests load them
    loaded = [yaml.safe_load(re.sub(r"sha256: \w+…", f"sha256: {HASH}", block)) for block in page.blocks("yaml")]
    return [block for block in loaded if isinstance(block, dict) and set(block) <= PARTS]


@each_guide
def test_configurations_load(page: Page, tmp_path: Path) -> None:
    for number, block in enumerate(configurations(page)):
        file = tmp_path / f"{number}.yaml"
        if "admin" in block:  # a piece of it may leave the tokens out
            block["admin"].setdefault("tokens", [{"name": "ops", "sha256": HASH, "scopes": ["read"]}])
        file.write_text(yaml.safe_dump(MINIMAL | block), encoding="utf-8")
        load(file, {}, run_secrets=tmp_path)


@each_guide
def test_environments_load(page: Page, tmp_path: Path) -> None:
    for block in page.blocks("env"):
        file = tmp_path / "m.yaml"
        file.write_text(yaml.safe_dump(configurations(page)[0]), encoding="utf-8")
        load(file, dict(line.split("=", 1) for line in block.splitlines()), run_secrets=tmp_path)


@each_guide
def test_words_that_look_like_settings_are_some(page: Page) -> None:
    known = {setting.path.replace("[]", "") for setting in settings()}
    for word in page.words:
        if re.fullmatch(r"(daemons|journal|sinks|exporter|admin|log)(\.[a-z_<>-]+)+", word) and not word.startswith(
            "journal.db"
        ):
            path = re.sub(r"^(daemons|sinks)\.[^.]+", r"\1.<name>", word)
            assert any(one == path or one.startswith(f"{path}.") for one in known), word
        if re.fullmatch(r"MESHBRIDGE(_[A-Z]+)(__[A-Z_]+)+", word) and word != "MESHBRIDGE_A__B__C":
            key = re.sub(r"^(MESHBRIDGE_(DAEMONS|SINKS))__.*?__", r"\1__<NAME>__", word)
            assert key in {setting.environment for setting in settings()}, word


@each_guide
def test_commands_and_their_options_exist(page: Page) -> None:
    shell = re.sub(r"(^|\s)#.*", "", "\n".join(page.blocks("sh")), flags=re.MULTILINE).replace("\\\n", " ")
    calls = CALL.findall(re.sub(r"(?:\S*/|exec meshbridge )meshbridge (?=[a-z])", "meshbridge ", shell))
    if page.path.name != "logs.md":  # whose words are events such as `meshbridge started`
        calls += [match[1] for word in page.words if (match := CALL.fullmatch(word))]
    for call in calls:
        command: Any = typer.main.get_command(app)
        for word in call.split():
            if word == "…":
                break
            if isinstance(command, typer.core.TyperGroup):
                assert word in command.commands, f"meshbridge {call}"
                command = command.commands[word]
            elif word.startswith("-") and word not in {"-h", "--help"}:
                known = {option for parameter in command.params for option in parameter.opts}
                assert word.partition("=")[0] in known, f"meshbridge {call}"


@each_guide
def test_metrics_exist(page: Page) -> None:
    names = {metric.name for metric in metrics()}
    recorded = {
        rule["record"]
        for group in yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"]
        for rule in group["rules"]
    }
    for word in page.words:
        if match := re.fullmatch(r"((?:meshbridge|appmesh_(?:app|host))_[a-z0-9_]*[a-z0-9])(?:\{.*\})?", word):
            if "__" in word:
                continue  # a file that is named like a setting
            assert match[1] in names | recorded, word
