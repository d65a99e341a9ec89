"""One bridge, an honest daemon, and beside it every hostile one at once: what these do costs only themselves.

A new case is one line in ``daemons.CASES``.
"""

import contextlib
import os
from collections.abc import Iterator

import pytest
import trustme

from tests.hostile.daemons import CASES, HostileDaemon, fuzzed
from tests.hostile.stage import Stage, running
from tests.support import wait_for

_FIRST = int(os.environ.get("HOSTILE_SEED", "0"))
FUZZED = range(_FIRST, _FIRST + int(os.environ.get("HOSTILE_FUZZED", "5")))
MORE_MIB = 64
LINES_EACH = 100


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("hostile")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    cases = CASES | {f"fuzzed-{seed}": fuzzed(seed) for seed in FUZZED}
    login = {"username": "admin", "password": "hostile-password", "tls": {"ca_file": str(directory / "ca.pem")}}
    with contextlib.ExitStack() as stack:
        hostile = {name: stack.enter_context(HostileDaemon(authority, case)) for name, case in cases.items()}
        daemons = {name: {"url": f"tcp://127.0.0.1:{daemon.port}", **login} for name, daemon in hostile.items()}
        found = stack.enter_context(running(directory, daemons, {}))
        found.hostile = hostile
        for name, daemon in hostile.items():
            if "/appmesh/subscribe" not in cases[name].answers and name not in NEVER_SUBSCRIBED:
                wait_for(daemon.pushed.is_set, f"what {name} pushes")
        yield found


NEVER_SUBSCRIBED = {"start-1e300", "resources-list", "token-echo", *(f"fuzzed-{seed}" for seed in FUZZED)}


def test_the_honest_daemon_is_heard_and_not_forged(stage: Stage) -> None:
    stage.honest_event_arrives("after all of them")
    honest = [one for one in stage.events() if one["source"] == "appmesh://honest"]
    assert honest
    assert not [one for one in stage.events() if one["id"] == "honest/1/666"]
    assert all(one["id"].startswith(one["source"].removeprefix("appmesh://") + "/") for one in stage.events())


def test_what_is_no_event_is_counted_and_leaves_a_gap(stage: Stage) -> None:
    metrics = stage.get("/metrics")
    for name in ("sequence-2-63", "year-33658", "app-object", "other-subscription", "garbage", "nested"):
        line = next(one for one in metrics.splitlines() if f'events_invalid_total{{daemon="{name}"' in one)
        assert float(line.split()[-1]) >= 1, line


def test_holes_do_not_make_the_bridge_ask_for_the_list_each_time(stage: Stage) -> None:
    stage.honest_event_arrives("after the holes")
    assert stage.hostile["holes"].asked["/appmesh/applications"] < 20


def test_every_thread_runs_and_the_bridge_is_ready(stage: Stage) -> None:
    stage.runs_undisturbed()


def test_the_scrape_holds_nothing_that_a_daemon_may_not_say(stage: Stage) -> None:
    metrics = stage.get("/metrics")
    lines = metrics.splitlines()
    assert not [one for one in lines if one.startswith(("big", "up", "__x"))]
    assert [one for one in lines if one.startswith('fine{daemon="metrics-1e999"')]
    assert 'meshbridge_daemon_up{daemon="metrics-1e999"} 7' not in metrics


def test_log_and_memory_are_bounded(stage: Stage) -> None:
    before = stage.resident_mib()
    for number in range(3):
        stage.honest_event_arrives(f"round {number}")
    assert stage.resident_mib() - before < MORE_MIB
    assert len(stage.bridge.output().splitlines()) < LINES_EACH * (len(CASES) + len(FUZZED))


def test_no_secret_is_repeated(stage: Stage) -> None:
    for text in (stage.bridge.output(), stage.get("/"), stage.get("/-/ready")):
        assert "hostile-password" not in text
