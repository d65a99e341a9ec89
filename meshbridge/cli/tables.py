"""Columns of text, and figures as a person reads them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from meshbridge.outside import printable

if TYPE_CHECKING:
    from rich.text import Text
from meshbridge.cli.output import new_console, show

__all__ = ["age", "aligned", "in_colour", "print_table", "size"]

_KIB = 1024
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], styles: Mapping[str, str] = MappingProxyType({})
) -> None:
    """A line for each row; on a terminal, a cell that is a key of ``styles`` in that style, as rich calls it."""
    if not sys.stdout.isatty():
        for line in aligned(header, rows):
            show("  ".join(line).rstrip())
        return
    console = new_console()
    for text in in_colour(header, rows, styles):
        console.print(text, soft_wrap=True)


def in_colour(header: Sequence[str], rows: Sequence[Sequence[str]], styles: Mapping[str, str]) -> Iterator["Text"]:
    """The lines of a table, in bold and colours."""
    from rich.text import Text

    first, *others = aligned(header, rows)
    yield Text("  ".join(first), style="bold")
    for line in others:
        text = Text()
        for cell in line:
            text.append(cell, style=styles.get(cell.strip(), "")).append("  ")
        yield text


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The cells of each row, the header first, as wide as their column; what is a figure stands to the right."""
    shown = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    right = [
        any(cell[:1].isdigit() for cell in column) and all(cell[:1].isdigit() or cell in {"", "-"} for cell in column)
        for column in ([row[place] for row in shown[1:]] for place in range(len(header)))
    ]
    return [
        [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        for row in shown
    ]


def size(count: float) -> str:
    """``12.3 MiB``"""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < _KIB:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KIB
    return f"{count:.1f} TiB"


def age(seconds: float) -> str:
    """``3d 4h``, ``12s``: the two largest units."""
    left, parts = max(0, int(seconds)), list[str]()
    for length, unit in _UNITS:
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0")) or "0s"
