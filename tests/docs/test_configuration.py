"""docs/configuration.md: a line for each setting, and none for others; its examples load."""

import re
from typing import Any

import pytest

from meshbridge.config.load import ConfigError, Settings, load
from tools.configuration import PAGE, catalogue, updated

TEXT = PAGE.read_text(encoding="utf-8")
SETTINGS = catalogue()


def test_the_tables_are_those_of_the_code() -> None:
    assert updated(TEXT) == TEXT, "run `python -m tools.configuration`, and look at what it changed"


def test_the_schema_has_no_setting_that_the_page_lacks() -> None:
    documented = {setting.path.replace("[]", "") for setting in SETTINGS}
    paths = set(_paths(Settings.model_json_schema(by_alias=True)))
    assert {"log.level", "sinks.<name>.home_assistant", "daemons.<name>.oidc.tls.verify"} <= paths <= documented


def _paths(schema: dict[str, Any], node: dict[str, Any] | None = None, path: str = "") -> list[str]:
    """Every leaf of the JSON Schema, names of daemons and sinks as ``<name>``."""
    node = schema if node is None else node
    if "$ref" in node:
        return _paths(schema, schema["$defs"][node["$ref"].rpartition("/")[2]], path)
    found: list[str] = []
    for key, below in node.get("properties", {}).items():
        found += _paths(schema, below, f"{path}.{key}" if path else key)
    for below in [*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())]:
        found += _paths(schema, below, path)
    items = node.get("items")
    if isinstance(items, dict) and "$ref" in items:
        found += _paths(schema, items, path)
    if path in {"daemons", "sinks"}:
        for below in node["patternProperties"].values():
            found += _paths(schema, below, f"{path}.<name>")
    return found or [path]


@pytest.mark.parametrize("table", dict.fromkeys(setting.table for setting in SETTINGS))
def test_settings_are_known_by_their_names_in_the_environment(table: str) -> None:
    """A key that is not known is refused as such; whether the value fits is not asked here."""
    kind = re.search(r"\((\w+)\)", table)
    for setting in SETTINGS:
        if setting.table == table and "[]" not in setting.path:
            environ = {"MESHBRIDGE_SINKS__X__TYPE": kind[1] if kind else "file"} if "sinks" in table else {}
            with pytest.raises(ConfigError) as caught:
                load(None, environ | {setting.environment.replace("<NAME>", "X"): "of a wrong type or so"})
            assert not [problem for problem in caught.value.problems if "unknown key" in problem], setting
