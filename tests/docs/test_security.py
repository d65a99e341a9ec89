"""docs/security.md: the least role is enough, and just that; its example makes it."""

import re

import pytest

from meshbridge.checks.daemon import try_daemon
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.link import DaemonOptions
from meshbridge.link.permissions import LEAST_ROLE
from meshbridge.model.status import Grade
from tests.docs.pages import ROOT, Page

PAGE = Page(ROOT / "docs" / "security.md")


def test_the_permissions_are_those_that_the_link_asks_for() -> None:
    assert sorted(re.findall(r"^\| `([a-z-]+)` \| ", PAGE.text.partition("## Tokens")[0], re.MULTILINE)) == sorted(
        LEAST_ROLE
    )


def test_the_tests_that_the_threat_model_names_are_there() -> None:
    named = set(re.findall(r"`(tests/[\w/.]+)`", PAGE.text))
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("left_out", [None, *LEAST_ROLE])
def test_the_example_makes_a_user_with_whom_check_is_content(left_out: str | None) -> None:
    (example,) = PAGE.blocks("python")
    with Emulator(EmulatorOptions(wss_port=None, https_port=None)) as emulator:
        assert emulator.tcp_address is not None
        code = example.replace('("127.0.0.1", 6059)', repr(emulator.tcp_address))
        code = code.replace("/opt/appmesh/ssl/ca.pem", str(emulator.ca_file))
        if left_out:
            code = code.replace(f'"{left_out}"', '"label-view"')
        exec(compile(code, PAGE.name, "exec"), {"__name__": "example"})
        host, port = emulator.tcp_address
        options = DaemonOptions.model_validate(
            {
                "url": f"tcp://{host}:{port}",
                "username": "bridge",
                "password": "a-long-Password-1",
                "tls": {"ca_file": emulator.ca_file},
            }
        )
        said = {verdict.text: verdict.grade for verdict in try_daemon("node-a", options)}
    if left_out is None:
        assert said["the user may do all that a bridge needs"] is Grade.OK
    else:
        assert said[f"the user may not {left_out}"] is Grade.FAILED
