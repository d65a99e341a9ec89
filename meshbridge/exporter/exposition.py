"""Families of series and how they are written: text 0.0.4 and OpenMetrics 1.0. Pure: no I/O, no clock.

A family keeps its series as finished lines of text 0.0.4, since that is how a daemon hands them over and how they are
mostly sent on. What OpenMetrics writes differently (the name in a counter's TYPE line, canonical ``le`` and
``quantile``, seconds for timestamps, exemplars) is changed when it is asked for.

A name is never changed by the format: a counter whose name lacks ``_total`` is of type ``unknown`` in OpenMetrics,
because there it would have to be renamed, and a query must not depend on what was negotiated.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

__all__ = [
    "CLASH",
    "CONFLICT",
    "LIMIT",
    "MALFORMED",
    "Chunk",
    "Family",
    "cut",
    "escape_help",
    "escape_value",
    "labels",
    "merge",
    "number",
    "render_openmetrics",
    "render_text",
    "sample_names",
]

# Why a line of a daemon is not served: the values of the label `reason`.
MALFORMED = "malformed"  # not text 0.0.4
CLASH = "clash"  # a name that meshbridge itself uses
CONFLICT = "conflict"  # a family that another daemon, earlier in the list, gives another shape
LIMIT = "limit"  # beyond max_series

_SUFFIXES = {
    "counter": ("",),
    "gauge": ("",),
    "untyped": ("",),
    "summary": ("", "_sum", "_count"),
    "histogram": ("_bucket", "_sum", "_count"),
}


class Chunk(NamedTuple):
    """Whole lines, ``series`` of them. ``openmetrics`` where that format writes them differently."""

    text: bytes
    series: int
    openmetrics: bytes | None = None


@dataclass(slots=True)
class Family:
    """All series of one name. ``type`` is one of text 0.0.4, and ``help`` is escaped as there."""

    name: str
    type: str
    help: bytes = b""
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def series(self) -> int:
        return sum(chunk.series for chunk in self.chunks)

    def add(self, lines: Iterable[str]) -> None:
        """Appends finished lines, without their line ends."""
        collected = list(lines)
        if collected:
            self.chunks.append(Chunk(("\n".join(collected) + "\n").encode(), len(collected)))

    def answers_to(self, names: frozenset[str]) -> bool:
        """Whether it is asked for by one of ``names``: its own, one of its samples', or its name in OpenMetrics."""
        own = {self.name, *sample_names(self.name, self.type)}
        if self.type == "counter":
            own.add(self.name.removesuffix("_total"))
        return not names.isdisjoint(own)


@lru_cache(maxsize=4096)
def sample_names(name: str, family_type: str) -> tuple[str, ...]:
    """What the series of such a family may be called."""
    return tuple(name + suffix for suffix in _SUFFIXES[family_type])


# --- writing one line ----------------------------------------------------------------------------------------------

_SPECIAL = re.compile(r'[\\\n"]')
_NOT_FINITE = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}


def escape_value(value: object) -> str:
    """The text between the quotes of a label value. What is no Unicode text (half a surrogate pair) becomes ``?``."""
    text = value if isinstance(value, str) else str(value)
    if not text:
        return text
    if _SPECIAL.search(text):
        text = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def escape_help(text: str) -> bytes:
    return text.replace("\\", "\\\\").replace("\n", "\\n").encode("utf-8", "replace")


def labels(pairs: Mapping[str, object]) -> str:
    """``{name="value",…}``, or nothing for none."""
    return "{" + ",".join(f'{name}="{escape_value(value)}"' for name, value in pairs.items()) + "}" if pairs else ""


def number(value: object) -> str | None:
    """The value of a series; None for what is no number."""
    if type(value) is int:
        return str(value)
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        return _NOT_FINITE.get(text := repr(value), text)
    return None


# --- putting families together -------------------------------------------------------------------------------------


def merge(groups: Iterable[tuple[str, Iterable[Family]]]) -> tuple[list[Family], dict[str, int]]:
    """One family for each name, sorted by name, from the families of each daemon.

    Help and type are those of the first that has them; of two simple types that differ, the result is ``untyped``. A
    family that can't stand beside the earlier ones (a histogram here, a gauge there) is left out.

    Returns:
        The families, and how many series were left out for each daemon.

    """
    families: dict[str, Family] = {}
    owners: dict[str, str] = {}  # sample name -> family
    left_out: dict[str, int] = {}
    for daemon, group in groups:
        for family in group:
            known = families.get(family.name)
            names = sample_names(family.name, family.type)
            if any(owners.get(name, family.name) != family.name for name in names) or not _alike(known, family):
                left_out[daemon] = left_out.get(daemon, 0) + family.series
                continue
            if known is None:
                families[family.name] = Family(family.name, family.type, family.help, list(family.chunks))
                owners.update(dict.fromkeys(names, family.name))
                continue
            known.help = known.help or family.help
            if known.type != family.type:
                known.type = "untyped"
            known.chunks += family.chunks
    return sorted((family for family in families.values() if family.chunks), key=lambda family: family.name), left_out


def _alike(known: Family | None, other: Family) -> bool:
    return known is None or known.type == other.type or not {"histogram", "summary"} & {known.type, other.type}


def cut(families: Iterable[Family], limit: int) -> tuple[list[Family], int]:
    """The first ``limit`` series, and how many were cut off."""
    kept: list[Family] = []
    room, lost = limit, 0
    for family in families:
        if (series := family.series) <= room:
            kept.append(family)
            room -= series
            continue
        short = Family(family.name, family.type, family.help)
        for chunk in family.chunks:
            taken = min(room, chunk.series)
            if taken:
                short.chunks.append(_first(chunk, taken))
            room -= taken
        lost += series - short.series
        kept.append(short)
    return kept, lost


def _first(chunk: Chunk, count: int) -> Chunk:
    if count == chunk.series:
        return chunk
    text, other = (
        None if lines is None else b"\n".join(lines.split(b"\n", count)[:count]) + b"\n"
        for lines in (chunk.text, chunk.openmetrics)
    )
    assert text is not None
    return Chunk(text, count, other)


# --- writing it all ------------------------------------------------------------------------------------------------


def render_text(families: Iterable[Family]) -> Iterator[bytes]:
    """Text format 0.0.4, in parts: joined they would stand in memory twice."""
    for family in families:
        if family.help:
            yield b"# HELP %b %b\n" % (family.name.encode(), family.help)
        yield f"# TYPE {family.name} {family.type}\n".encode()
        for chunk in family.chunks:
            yield chunk.text


def render_openmetrics(families: Sequence[Family]) -> Iterator[bytes]:
    """OpenMetrics 1.0 with its end mark, in parts as :func:`render_text`."""
    taken = {family.name for family in families}
    for family in families:
        name, family_type = family.name, family.type
        if family_type == "counter":
            short = name.removesuffix("_total")
            name, family_type = (name, "unknown") if short in taken else (short, "counter")
        elif family_type == "untyped":
            family_type = "unknown"
        yield f"# TYPE {name} {family_type}\n".encode()
        if family.help:
            yield b"# HELP %b %b\n" % (name.encode(), family.help.replace(b'"', b'\\"'))
        for chunk in family.chunks:
            lines = chunk.text if chunk.openmetrics is None else chunk.openmetrics
            if family_type in ("histogram", "summary"):
                lines = _canonical_bounds(lines)
            yield lines
    yield b"# EOF\n"


_BOUND = re.compile(rb'[{,](?:le|quantile)="(?![+-]?Inf")[^"\\]*"')


def _canonical_bounds(lines: bytes) -> bytes:
    """Writes ``le="1"`` as ``le="1.0"``, as OpenMetrics wants it.

    A bound has few values over many lines, so each is replaced everywhere at once. ``[{,]le="`` with a bare quote
    begins a label wherever it stands: inside a value the quote would have a backslash.
    """
    for bound in set(_BOUND.findall(lines)):
        head, _, rest = bound.partition(b'"')
        try:
            canonical = number(float(rest[:-1]))
        except ValueError:
            continue
        assert canonical is not None
        if canonical.encode() != rest[:-1]:
            lines = lines.replace(bound, b'%b"%b"' % (head, canonical.encode()))
    return lines
