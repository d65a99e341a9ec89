"""docs/metrics.md: a line for each metric that is served, and none for others."""

import re

from meshbridge.exporter.collectors.own import registry_families
from meshbridge.telemetry import REGISTRY
from tools.metrics import PAGE, catalogue, updated

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_code() -> None:
    assert updated(TEXT) == TEXT, "run `python -m tools.metrics`, and look at what it changed"


def test_every_metric_has_a_line_and_every_line_a_metric() -> None:
    documented = re.findall(r"^\| `(\w+)` \| (?:counter|gauge|histogram|summary|untyped) ", TEXT, re.MULTILINE)
    served = {metric.name for metric in catalogue()}
    assert len(documented) == len(set(documented))
    assert set(documented) == served
    assert {family.name for family in registry_families(REGISTRY)} <= served


def test_other_words_for_metrics_are_metrics_too() -> None:
    served = {metric.name for metric in catalogue()}
    for name in re.findall(r"`((?:meshbridge|appmesh_app|appmesh_host)_\w+)`", TEXT):
        assert name in served


def test_names_tell_types_and_units() -> None:
    for metric in catalogue():
        assert (metric.type == "counter") == metric.name.endswith("_total")
        assert metric.meaning
        if "seconds" in metric.name or "bytes" in metric.name:
            assert metric.unit
