"""One bridge, an honest daemon and an honest sink, and beside them every hostile destination and issuer at once.

A new case is one line in ``peers.SINKS`` or ``peers.ISSUERS``.
"""

import contextlib
import json
from collections.abc import Iterator

import pytest
import trustme

from tests.hostile.daemons import Answers, Case, HostileDaemon
from tests.hostile.peers import ISSUERS, PASSWORD, SECRET, SINKS, HostileServer
from tests.hostile.stage import Stage, running
from tests.support import wait_for

MORE_MIB = 64
LINES_EACH = 100
ROUNDS = 3
SOME = 7  # every seventh case, in the quick round
AUTH: Answers = {
    "/appmesh/auth/config": json.dumps({"issuer": None, "scopes": ["openid"], "public_client_id": "c"}).encode()
}


@pytest.fixture(scope="module", params=["some", pytest.param("all", marks=pytest.mark.slow)])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    step = 1 if request.param == "all" else SOME
    peers, issuers = dict(list(SINKS.items())[::step]), dict(list(ISSUERS.items())[::step])
    directory = tmp_path_factory.mktemp("peers")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(HostileServer(one.says)) for name, one in (peers | issuers).items()}
        daemon = stack.enter_context(HostileDaemon(authority, Case(answers=AUTH)))
        daemons = {
            name: {
                "url": f"tcp://127.0.0.1:{daemon.port}",
                "oidc": one.settings(servers[name].port),
                "tls": {"ca_file": str(directory / "ca.pem")},
            }
            for name, one in issuers.items()
        }
        sinks = {name: one.settings(servers[name].port) for name, one in peers.items()}
        found = stack.enter_context(running(directory, daemons, sinks))
        for name, server in servers.items():
            wait_for(server.met.is_set, f"a connection to {name}")
        yield found


def test_the_honest_are_served(stage: Stage) -> None:
    before = stage.resident_mib()
    for number in range(ROUNDS):
        stage.honest_event_arrives(f"round {number}")
        stage.get("/metrics")
    assert stage.resident_mib() - before < MORE_MIB
    stage.runs_undisturbed()


def test_log_is_bounded_and_harmless(stage: Stage) -> None:
    lines = stage.bridge.output().splitlines()
    assert len(lines) < LINES_EACH * len(SINKS | ISSUERS)
    assert all(line.isprintable() for line in lines)


def test_no_secret_is_repeated(stage: Stage) -> None:
    for text in (stage.bridge.output(), stage.get("/"), stage.get("/-/ready"), stage.get("/metrics")):
        assert PASSWORD not in text
        assert SECRET not in text
