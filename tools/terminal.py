"""``python -m tools.terminal`` draws what ``meshbridge demo`` shows in a terminal: ``pictures/demo.svg``."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

__all__ = ["PICTURE", "drawn"]

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "demo.svg"

_COLUMNS = 92
_EVENTS = 22  # lines of events, some seconds of them
_OF_THE_MOMENT = (  # what is another one each time, or too long to be read
    (re.compile(r"#token=\S+?(?=\x1b|\s|$)"), "#token=mbt_…"),
    (re.compile(r"(/\w+)+/meshbridge-\w+-[^/\s]+"), "…"),
    (re.compile(r"  user admin.*"), ""),
)


def _demo() -> Iterator[str]:
    environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": str(_COLUMNS), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "meshbridge", "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as demo:
        assert demo.stdout is not None
        events = 0
        for line in demo.stdout:
            yield line.rstrip("\n")
            events += "meshbridge/demo/" in line
            if events == _EVENTS:
                break
        demo.send_signal(signal.SIGINT)
        demo.stdout.read()


def drawn(lines: Iterable[str]) -> str:
    """Lines with a terminal's colours as an SVG that loads no fonts."""
    console = Console(record=True, width=_COLUMNS, file=StringIO(), force_terminal=True)
    for line in lines:
        for pattern, instead in _OF_THE_MOMENT:
            line = pattern.sub(instead, line)  # noqa: PLW2901 one line, made fit to be shown
        console.print(Text.from_ansi(line), no_wrap=True, overflow="ellipsis", highlight=False)
    svg = console.export_svg(title="$ make demo", theme=MONOKAI, unique_id="demo")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code", "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono'")


if __name__ == "__main__":
    PICTURE.write_text(drawn(_demo()), encoding="utf-8")
