"""``python -m tools.write_dashboards`` writes the dashboards as JSON for Grafana 10 or newer to ``deploy/grafana``."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.dashboards import DASHBOARDS, Dashboard, Panel, Query, Variable

__all__ = ["FOLDER", "documents", "written"]

FOLDER = Path(__file__).parents[1] / "deploy" / "grafana"

_SCHEMA_VERSION = 39  # of Grafana 10.4; newer ones bring it up to date when they load it
_COLUMNS = 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_GOOD, _BAD = "green", "red"


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of each file, and what is in it."""
    for dashboard in DASHBOARDS:
        yield f"{dashboard.uid}.json", _dashboard(dashboard)


def written(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _dashboard(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["appmesh", "meshbridge"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "title": "",
                "tags": ["meshbridge"],
                "asDropdown": False,
                "icon": "external link",
                "includeVars": False,
                "keepTime": True,
                "targetBlank": False,
                "tooltip": "",
                "url": "",
            }
        ],
        "templating": {"list": [_datasource(), *(_variable(variable) for variable in dashboard.variables)]},
        "annotations": {"list": []},
        "panels": list(_panels(dashboard)),
    }


def _datasource() -> dict[str, Any]:
    return {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "refresh": 1}


def _variable(variable: Variable) -> dict[str, Any]:
    return {
        "type": "query",
        "name": variable.name,
        "label": variable.label,
        "datasource": _SOURCE,
        "definition": variable.query,
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,  # when the time range changes: a daemon may be new or gone
        "sort": 1,
        "multi": variable.several,
        "includeAll": variable.several,
        **({"current": {"selected": True, "text": ["All"], "value": ["$__all"]}} if variable.several else {}),
    }


def _panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    """Row by row, from left to right, in lines of 24 columns."""
    number = y = 0
    for row in dashboard.rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"h": 1, "w": _COLUMNS, "x": 0, "y": y},
            "panels": [],
        }
        y += 1
        x = 0
        for panel in row.panels:
            if x + panel.width > _COLUMNS:
                x, y = 0, y + panel.height
            number += 1
            place = {"h": panel.height, "w": panel.width, "x": x, "y": y}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            x += panel.width
        y += row.panels[-1].height


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _options(panel),
        "targets": [_target(panel, query, chr(ord("A") + place)) for place, query in enumerate(panel.queries)],
        **({"transformations": _columns()} if panel.kind == "table" else {}),
    }


def _target(panel: Panel, query: Query, ref: str) -> dict[str, Any]:
    instant = panel.kind in ("stat", "table", "bargauge")
    return {
        "refId": ref,
        "datasource": _SOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": instant,
        "range": not instant,
        "format": "table" if panel.kind == "table" else "time_series",
    }


def _field(panel: Panel) -> dict[str, Any]:
    field: dict[str, Any] = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": _steps(panel)},
        "color": {"mode": "thresholds" if panel.kind in ("stat", "state-timeline") else "palette-classic"},
    }
    if panel.kind == "timeseries":
        field["min"] = 0
        field["custom"] = {
            "fillOpacity": 25 if panel.stacked else 8,
            "lineWidth": 1,
            "showPoints": "auto",
            "stacking": {"group": "A", "mode": "normal" if panel.stacked else "none"},
        }
    if all(query.quiet for query in panel.queries):
        field["noValue"] = ", ".join(dict.fromkeys(str(query.quiet) for query in panel.queries))
    if panel.greatest is not None:
        field["max"] = panel.greatest
    if panel.states is not None:
        field["mappings"] = [
            {
                "type": "value",
                "options": {
                    str(value): {"text": text, "color": color, "index": value}
                    for value, (text, color) in enumerate(zip(panel.states, (_BAD, _GOOD), strict=True))
                },
            }
        ]
    return field


def _steps(panel: Panel) -> list[dict[str, Any]]:
    if panel.states is not None:
        return [{"color": _BAD, "value": None}, {"color": _GOOD, "value": 1}]
    bad = [] if panel.bad_from is None else [{"color": _BAD, "value": panel.bad_from}]
    return [{"color": _GOOD, "value": None}, *bad]


def _options(panel: Panel) -> dict[str, Any]:
    last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    if panel.kind == "stat":
        name = "name" if panel.shows_name else "value"
        return {
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "center",
            "reduceOptions": last,
            "textMode": name,
        }
    if panel.kind == "bargauge":
        return {"displayMode": "basic", "orientation": "horizontal", "reduceOptions": last, "valueMode": "text"}
    if panel.kind == "table":
        return {"showHeader": True, "cellHeight": "sm"}
    if panel.kind == "state-timeline":
        return {
            "mergeValues": True,
            "rowHeight": 0.8,
            "showValue": "never",
            "legend": legend,
            "tooltip": {"mode": "single", "sort": "none"},
        }
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def _columns() -> list[dict[str, Any]]:
    """A table of labels: the time is now, and the value is that of every row."""
    return [{"id": "organize", "options": {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": {}}}]


if __name__ == "__main__":
    for name, document in documents():
        (FOLDER / name).write_text(written(document), encoding="utf-8")
