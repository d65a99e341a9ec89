"""Columns of text, and figures as a person reads them."""

from collections.abc import Sequence

__all__ = ["age", "aligned", "size"]

_KIB = 1024
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, the header first; what is a figure stands to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    right = [all(not row[place] or row[place][0].isdigit() for row in rows) for place in range(len(header))]
    return ["  ".join(_cells(row, widths, right)).rstrip() for row in (header, *rows)]


def _cells(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    return [
        text.rjust(width) if to_right else text.ljust(width)
        for text, width, to_right in zip(row, widths, right, strict=True)
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
