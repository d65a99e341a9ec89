"""What commands print cannot steer a terminal."""

import ast
import io
import json
import os
import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
from rich.table import Table
from rich.text import Text

import meshbridge.cli
from meshbridge.cli import completion, output

HOSTILE = "a\x1b[31mb\u202ec\x9bd\x07e\u200bf\U000e0041g\x7fh\rd"
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
_PRINTING = {"print", "echo", "secho", "Console", "write", "writelines"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_by(say: Callable[[], object]) -> str:
    """What stands on a terminal with colours."""
    terminal = Terminal()
    with redirect_stdout(terminal), redirect_stderr(terminal), mock.patch.dict(os.environ, {"TERM": "xterm"}):
        os.environ.pop("NO_COLOR", None)
        say()
    return terminal.getvalue()


def draw_table() -> None:
    table = Table()
    table.add_column(HOSTILE)
    table.add_row(HOSTILE, style="bold")
    output.new_console().print(table)
    output.new_console(stderr=True).print(Text(HOSTILE), HOSTILE)


@pytest.mark.parametrize(
    "say",
    [
        lambda: output.show(HOSTILE),
        lambda: output.show_output(f"{HOSTILE}\n{HOSTILE}", raw=False),
        lambda: output.show_output(HOSTILE, raw=output.as_it_is(raw=False)),
        lambda: output.show_json([HOSTILE]),
        lambda: output.show_json_text(json.dumps(HOSTILE, ensure_ascii=False)),
        lambda: output.new_painter()((HOSTILE, ""), (HOSTILE, "red")),
        lambda: output.complain(HOSTILE),
        draw_table,
    ],
)
def test_what_steers_a_terminal_is_escaped(say: Callable[[], None]) -> None:
    coloured = shown_by(say)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", coloured)  # colours of our own
    assert "\x1b[31mb" not in coloured, "not what is inside the text"
    assert shown
    assert not STEERING.search(shown), repr(shown)


def test_json_keeps_its_meaning() -> None:
    text = json.dumps({HOSTILE: [1e300, HOSTILE, "日本", "\\", '"']}, ensure_ascii=False)
    shown = shown_by(lambda: output.show_json_text(text))
    assert shown.isascii()
    assert json.loads(shown) == json.loads(text)


def test_an_apps_output_is_left_as_it_is_where_a_program_reads_it() -> None:
    assert shown_by(lambda: output.show_output(HOSTILE, raw=output.as_it_is(raw=True))) == HOSTILE
    with redirect_stdout(io.StringIO()):
        assert output.as_it_is(raw=False)


def test_one_line_stays_one_line() -> None:
    assert shown_by(lambda: output.show("a\nmeshbridge: all is well")) == "a\\nmeshbridge: all is well\n"


def test_no_other_module_of_the_command_line_prints() -> None:
    found = []
    for path in Path(meshbridge.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
            on_a_console = isinstance(node, ast.Attribute) and ast.unparse(node.value) == "console"  # of new_console
            if path.name != "output.py" and not on_a_console and name in _PRINTING:
                found.append(f"{path.name}:{getattr(node, 'lineno', 0)} {name}")
    assert [one for one in found if not one.startswith("login.py")] == []
    assert len(found) == 1, "login.py writes a file"


def test_a_shell_is_offered_no_word_that_it_would_run() -> None:
    known = [
        "web",
        "web-1.2_x@y",
        "naïve",
        "$(touch x)",
        "a;b",
        "a b",
        "a\nb",
        "`id`",
        "a'b",
        "a\u202eb",
        "a|b",
        "*",
        "~",
    ]
    assert [name for name in known if completion.is_harmless(name)] == ["web", "web-1.2_x@y", "naïve"]
