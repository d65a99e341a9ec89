"""docs/api.md: its tables are those of the API, and its examples run."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from meshbridge.admin.application import new_application
from meshbridge.admin.auth import token_auth
from meshbridge.admin.options import Scope, Token
from meshbridge.admin.problems import MEANINGS, ProblemKind
from meshbridge.admin.tokens import digest, new_token
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.journal import Journal, JournalOptions
from meshbridge.link import Link
from tests.integration.admin_api import bridge_for, options_for, serving
from tools.api import PAGE, operations, updated

TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)


def test_the_tables_are_those_of_the_code() -> None:
    assert updated(TEXT) == TEXT, "run `python -m tools.api`, and look at what it changed"


def test_every_kind_of_problem_has_its_paragraph_and_no_other_has_one() -> None:
    assert re.findall(r'^\| <a id="([a-z-]+)"></a>`\1` \| .{20,} \|$', TEXT, re.MULTILINE) == list(ProblemKind)
    assert list(MEANINGS) == list(ProblemKind)


def test_every_operation_has_a_line_with_its_scope() -> None:
    documented = re.findall(r"^\| `([A-Z]+) (\S+)` \| (\w+) \|", TEXT, re.MULTILINE)
    assert sorted(documented) == sorted((one.method, one.path, str(one.scope)) for one in operations())


def test_whoever_may_come_in_with_a_token_only() -> None:
    assert [one.path for one in operations() if one.scope is None] == []


@pytest.mark.needs("bash", "curl")
def test_the_examples_run(tmp_path: Path) -> None:
    assert len(EXAMPLES) >= 5
    token = new_token()
    known = Token.model_validate({"name": "reader", "sha256": digest(token), "scopes": [Scope.ADMIN]})
    script = "".join(EXAMPLES).replace("/tmp/", f"{tmp_path}/").replace("/srv/", f"{tmp_path}/srv-")
    assert "TOKEN=…" in script
    journal = Journal(JournalOptions(path=tmp_path / "journal"))
    journal.open()
    with Emulator(EmulatorOptions()) as emulator:
        link = Link("node-a", options_for(emulator, "tcp"), journal)
        with serving(new_application(bridge_for([link], journal), token_auth(lambda: [known]))) as api:
            script = script.replace("http://127.0.0.1:9666", api.root).replace("TOKEN=…", f"TOKEN={token}")
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                env={**os.environ, "no_proxy": "127.0.0.1"},
            )
            assert done.returncode == 0, done.stdout + done.stderr
        assert link.stop(10)
    journal.close()
    assert '{"position":0,"output":"1\\n2\\n3\\n"}\n{"exit_code":0,"finished":true}\n' in done.stdout
    assert '"zone":"eu-1"' in done.stdout
    assert (tmp_path / "again").read_text() == "hello\n"
