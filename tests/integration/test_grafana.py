"""The dashboards of deploy/grafana: that they are what their source says, and that each query finds something.

A real Prometheus scrapes two real bridges: one where all is well, and one with a daemon that is gone, a hook that
refuses, a hook that is not there, and apps that fail.
"""

import http.server
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from meshbridge.appmesh.app import App
from meshbridge.appmesh.client_tcp import AppMeshClientTCP
from meshbridge.emulator import Emulator, EmulatorOptions
from tests.e2e.conftest import Bridge, address_of, daemon_settings
from tests.integration.prometheus import Prometheus, scraping
from tests.support import free_port, wait_for
from tools import write_dashboards as generate
from tools.dashboards import DASHBOARDS, Dashboard, Panel, Query

FOLDER = generate.FOLDER
QUERIES = [
    (dashboard, panel, query)
    for dashboard in DASHBOARDS
    for row in dashboard.rows
    for panel in row.panels
    for query in panel.queries
]
# A disk that fails is a test of the journal's; commands need a broker, and test_mqtt_commands.py has them.
NOT_PROVOKED = ("meshbridge_journal_faults_total", "meshbridge_command")

STEADY: dict[str, Any] = {"name": "steady", "command": "while true; do echo tick; sleep 0.2; done", "shell": True}
FAILING: tuple[dict[str, Any], ...] = (
    {"name": "crasher", "command": "sleep 0.5; exit 3", "shell": True, "behavior": {"exit": "restart"}},
    {"name": "sick", "command": "sleep 600", "health_check_cmd": "false"},
    {"name": "off", "command": "sleep 600", "status": 0},
)


def register(emulator: Emulator, *apps: dict[str, Any]) -> None:
    client = AppMeshClientTCP(address_of(emulator), ssl_verify=str(emulator.ca_file))
    client.login("admin", "admin123")
    for app in apps:
        client.add_app(App(app))
    client.close()


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(400)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 as http.server calls it
        pass


@pytest.fixture(scope="module")
def refusing_hook() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, name="hook")
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@dataclass
class Watched:
    """Both bridges by the label ``instance``, and who asks."""

    prometheus: Prometheus
    well: str
    troubled: str

    def ask(self, query: Query, instance: str) -> list[dict[str, Any]]:
        """As Grafana would, with one bridge and everything else chosen."""
        expression = query.expr
        for variable, value in {
            "$__rate_interval": "10s",
            "$__range": "1m",
            "$instance": instance,
            "$daemon": ".+",
            "$sink": ".+",
        }.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression
        return self.prometheus.query(expression)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, refusing_hook: str) -> Iterator[Watched]:
    directory = tmp_path_factory.mktemp("grafana")
    with (
        Emulator(EmulatorOptions(wss_port=None, https_port=None)) as steady,
        Emulator(EmulatorOptions(wss_port=None, https_port=None)) as lively,
    ):
        register(steady, STEADY)
        unused = f"127.0.0.1:{free_port()}"
        hook = {"type": "webhook", "retry": {"initial": "200ms", "max": "1s"}}
        log = {"type": "file", "path": str(directory / "events.jsonl")}
        troubles: dict[str, Any] = {
            "daemons": {
                "node-b": daemon_settings(lively),
                "gone": daemon_settings(lively) | {"url": f"tcp://{unused}"},
            },
            "sinks": {
                "log": log,
                "refuses": hook | {"url": refusing_hook},
                "away": hook | {"url": f"http://{unused}/"},
            },
        }
        bridges = []
        for name, settings in (
            ("well", {"daemons": {"node-a": daemon_settings(steady)}, "sinks": {"log": log}}),
            ("troubled", troubles),
        ):
            (directory / name).mkdir()
            bridges.append(Bridge(directory / name, settings))
        try:
            for bridge in bridges:
                bridge.start()
            for bridge in bridges:
                bridge.wait_up()
            register(lively, STEADY, *FAILING)
            targets = [f"127.0.0.1:{bridge.exporter_port}" for bridge in bridges]
            with scraping(targets, directory) as prometheus:
                wait_for(lambda: len(prometheus.query("changes(up[10s])")) == len(targets), "both bridges")
                yield Watched(prometheus, *targets)
        finally:
            for bridge in bridges:
                bridge.close()


def name_of(value: object) -> str:
    if isinstance(value, Dashboard):
        return value.uid.removeprefix("meshbridge-")
    return value.title if isinstance(value, Panel) else ""


@pytest.mark.needs("prometheus")
@pytest.mark.parametrize(("dashboard", "panel", "query"), QUERIES, ids=name_of)
def test_a_query_finds_something_on_a_bridge_in_trouble(
    dashboard: Dashboard, panel: Panel, query: Query, watched: Watched
) -> None:
    if any(name in query.expr for name in NOT_PROVOKED):
        assert query.quiet
        return
    found = wait_for(lambda: watched.ask(query, watched.troubled), query.expr)
    names = re.findall(r"{{(\w+)}}", query.legend)
    if panel.kind == "table":
        (columns,) = re.findall(r"^max by \((.*?)\)", query.expr)
        names = columns.split(", ")
    for series in found:
        assert series["metric"].keys() >= set(names)


@pytest.mark.needs("prometheus")
@pytest.mark.parametrize(("dashboard", "panel", "query"), QUERIES, ids=name_of)
def test_a_query_finds_nothing_where_all_is_well_only_if_it_says_so(
    dashboard: Dashboard, panel: Panel, query: Query, watched: Watched
) -> None:
    if query.quiet:
        assert watched.ask(query, watched.well) == []
    else:
        wait_for(lambda: watched.ask(query, watched.well), query.expr)


@pytest.mark.needs("prometheus")
def test_fleet_counts_each_app_once_by_its_state(watched: Watched) -> None:
    panel = next(panel for _, panel, _ in QUERIES if panel.title == "Apps by state")
    _, unhealthy, _, disabled = panel.queries

    def number(query: Query) -> float:
        return float(watched.ask(query, watched.troubled)[0]["value"][1])

    wait_for(lambda: number(unhealthy) == 1, "the sick app")
    assert number(disabled) >= 1
    total = watched.prometheus.values(f'count(appmesh_app_info{{instance="{watched.troubled}"}})')
    assert {sum(number(query) for query in panel.queries)} == total


@pytest.mark.needs("prometheus")
def test_variables_have_something_to_choose_from(watched: Watched) -> None:
    for dashboard in DASHBOARDS:
        for variable in dashboard.variables:
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable.query)
            assert match is not None
            selector, label = match.groups()
            selector = selector.replace("$instance", watched.well)
            assert watched.prometheus.query(f"count by ({label}) ({selector})"), variable


# --- without a Prometheus ------------------------------------------------------------------------------------------


def test_what_is_checked_in_is_what_the_source_gives() -> None:
    expected = {name: generate.written(document) for name, document in generate.documents()}
    assert {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")} == expected


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=name_of)
def test_every_panel_can_be_read_by_a_stranger(dashboard: Dashboard) -> None:
    panels = [panel for row in dashboard.rows for panel in row.panels]
    for panel in panels:
        assert panel.description.endswith(".")
        assert panel.unit
        for query in panel.queries:
            assert query.legend or panel.kind in ("stat", "table")
            if "rate(" in query.expr and "_bucket" not in query.expr:
                assert panel.unit in ("eps", "suffix: cores")


@pytest.mark.parametrize("name", [name for name, _ in generate.documents()])
def test_panels_neither_overlap_nor_leave_the_page(name: str) -> None:
    document = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    taken: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])


@pytest.mark.parametrize("name", [name for name, _ in generate.documents()])
def test_a_data_source_can_be_chosen_for_all(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    document = json.loads(text)
    assert document["templating"]["list"][0]["type"] == "datasource"
    assert set(re.findall(r'"uid": "(.*)"', text)) == {"${datasource}", document["uid"]}
