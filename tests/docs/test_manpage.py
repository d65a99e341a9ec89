"""docs/meshbridge.1: what the command line is, and good roff."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.command_line import run_command
from tests.support import program
from tools.manpage import PAGE, Command, commands, page


def test_the_page_is_that_of_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tools.manpage`, and look at what it changed"


@pytest.mark.needs("groff")
def test_groff_finds_nothing_to_complain_of() -> None:
    groff = program("groff")
    assert groff is not None
    done = subprocess.run(
        [groff, "-man", "-Tutf8", "-ww", PAGE], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr == ""
    assert "EXIT STATUS" in re.sub(r"\x1b\[\d*m|.\x08", "", done.stdout)


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: command.name)
def test_it_says_of_a_command_what_help_says(command: Command, tmp_path: Path) -> None:
    environ = {"COLUMNS": "300", "TERM": "dumb", "HOME": str(tmp_path)}
    done = run_command(*command.name.split()[1:], "--help", env=environ)
    assert done.returncode == 0
    listed = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", re.sub(r"\[(default|env var):.*?\]", "", done.stdout)))
    names = {name for parameter in command.parameters for name in parameter.names} | {"-h", "--help"}
    assert names <= listed
    described = " ".join(done.stdout.split())
    assert all(parameter.help in described for parameter in command.parameters)
