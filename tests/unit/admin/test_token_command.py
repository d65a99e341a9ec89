"""``meshbridge token new``: a token that is shown once, and lines for the configuration that let it in."""

import json
import re

import pytest
import yaml
from typer.testing import CliRunner

from meshbridge.admin.options import AdminOptions, Scope
from meshbridge.admin.tokens import owner_of
from meshbridge.cli import app


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["token", "new", *arguments])
    return done.exit_code, done.output


def test_the_lines_for_the_configuration_let_the_token_in() -> None:
    code, said = run("--scope", "operate", "--name", "night-shift")
    assert code == 0
    (token,) = re.findall(r"mbt_[A-Za-z0-9_-]{43}", said)
    options = AdminOptions.model_validate(yaml.safe_load(said[said.index("  admin:") :])["admin"])
    owner = owner_of(token, options.tokens)
    assert owner is not None
    assert (owner.name, owner.scope) == ("night-shift", Scope.OPERATE)
    assert run("--scope", "operate")[1] != said


def test_the_same_for_a_script() -> None:
    code, said = run("--scope", "read", "--json")
    made = json.loads(said)
    assert code == 0
    assert owner_of(made["token"], AdminOptions.model_validate({"tokens": [made["entry"]]}).tokens) is not None
    assert made["token"] not in json.dumps(made["entry"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["--scope", "root"], "read, operate or admin"), (["--scope", "read", "--name", "a b"], "1 to 64 letters")],
)
def test_what_makes_no_sense_is_wrong_usage(arguments: list[str], reason: str) -> None:
    code, said = run(*arguments)
    assert code == 2
    assert reason in said
    assert "mbt_" not in said
