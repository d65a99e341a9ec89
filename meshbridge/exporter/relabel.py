r"""The fast path: a daemon's own text, given the label ``daemon`` without being taken apart. Pure: no I/O, no clock.

A block of lines under one TYPE mostly has one shape: the same names and labels in the same order, written without
spare spaces. Such a block is checked by one regular expression made from its first lines, and labelled by one
replacement of ``\nname{``, which can't occur inside a label value, since there a line end is written ``\n``. Whatever
else comes (spare spaces, timestamps, exemplars, a label called ``daemon``, small or mixed blocks) goes line by line,
to the same result.

A line that is not text 0.0.4 is dropped and counted: Prometheus would refuse the whole scrape for it. Exemplars, which
0.0.4 doesn't have, are kept for OpenMetrics where it allows them.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from math import isinf

from meshbridge.exporter.exposition import CLASH, LIMIT, MALFORMED, Chunk, Family, escape_value, sample_names

__all__ = ["Relabeled", "relabel"]

_RESERVED_PREFIXES = ("meshbridge_", "appmesh_app_", "appmesh_host_", "scrape_", "__")
_RESERVED_NAMES = frozenset({"up", "ALERTS", "ALERTS_FOR_STATE"})
"""With the prefixes, what Prometheus itself writes for each target, and what meshbridge does."""

_SMALL_BLOCK = 6
"""Lines below which the check by shape doesn't pay."""

_NEW_SHAPES = 64
"""How many regular expressions are compiled for one text, which takes as long as a hundred lines one by one."""

_KEPT_SHAPES = 512

_NAME = rb"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_LABEL = rb"[a-zA-Z_][a-zA-Z0-9_]*+"
_VALUE = rb"(?:[+-]?+(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?+[0-9]++)?+|[+-]?+(?i:inf(?:inity)?+)|(?i:nan))"
# What surely fits into 64 bits; whatever is longer is looked at for itself.
_PLAIN_VALUE = (
    rb"(?:[+-]?+(?:[0-9]{1,100}+(?:\.[0-9]{0,100}+)?+|\.[0-9]{1,100}+)(?:[eE][+-]?+[0-9]{1,2}+)?+"
    rb"|[+-]?+(?i:inf(?:inity)?+)|(?i:nan))"
)
_MAX_VALUE_BYTES, _MAX_TIMESTAMP_BYTES = 400, 20
_MAX_INTEGER = 2**63 - 1
_PAIRS = rb"(?:" + _LABEL + rb'[ \t]*+=[ \t]*+"(?:[^"\\]++|\\.)*+"[ \t]*+(?:,[ \t]*+|(?=\})))*+'
_SAMPLE = re.compile(
    rb"[ \t]*+(" + _NAME + rb")(?:[ \t]*+\{[ \t]*+(" + _PAIRS + rb")\}[ \t]*+|[ \t]++)"
    rb"(" + _VALUE + rb")(?:[ \t]++([+-]?+[0-9]++))?+"
    rb"(?:[ \t]++\#[ \t]*+\{[ \t]*+("
    + _PAIRS
    + rb")\}[ \t]*+("
    + _VALUE
    + rb")(?:[ \t]++("
    + _VALUE
    + rb"))?+)?+[ \t]*+"
)
_PAIR = re.compile(rb"(" + _LABEL + rb')[ \t]*+=[ \t]*+"((?:[^"\\]++|\\.)*+)"')
_COMMENT = re.compile(rb"[ \t]*+#[ \t]++(HELP|TYPE)[ \t]++(" + _NAME + rb")(?:[ \t]++(.*?))?[ \t]*+")
_REMARK = re.compile(rb"[ \t]*+#(?![ \t]++(?:HELP|TYPE)(?:[ \t]|$))")
_TYPES = {b"counter", b"gauge", b"histogram", b"summary", b"untyped"}
_BACKSLASH = re.compile(rb"\\(.?)", re.DOTALL)


@dataclass(slots=True)
class Relabeled:
    """The families of one daemon, and how many of its lines were dropped for which reason."""

    families: list[Family] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def relabel(
    text: bytes, daemon: str, *, reserved: frozenset[str] = frozenset(), max_series: int = 500_000
) -> Relabeled:
    """The families in ``text`` (format 0.0.4), each series with the label ``daemon``.

    ``reserved``: names of families that are meshbridge's own and not a daemon's to give.
    """
    return _Relabeling(daemon, reserved, max_series).run(text)


class _Relabeling:
    def __init__(self, daemon: str, reserved: frozenset[str], max_series: int) -> None:
        self._label = f'daemon="{escape_value(daemon)}"'.encode()
        self._labels: dict[bytes, bytes | None] = {}
        self._reserved = reserved | _RESERVED_NAMES
        self._room = max_series
        self._new_shapes = _NEW_SHAPES
        self._families: dict[bytes, Family] = {}
        self._owners: dict[bytes, Family] = {}  # sample name -> family
        self._implicit: set[bytes] = set()  # families without a TYPE so far
        self._current: Family | None = None
        self._dropped: Counter[str] = Counter()

    def run(self, text: bytes) -> Relabeled:
        text = self._cleaned(text)
        at, end = 0, len(text) - 1  # text begins and ends with a line end
        while at < end:
            if text.startswith(b"#", at + 1):
                stop = text.find(b"\n", at + 1)
                self._comment(text[at + 1 : stop])
            else:
                stop = text.find(b"\n#", at)
                stop = end if stop < 0 else stop
                self._block(text[at : stop + 1])
            at = stop
        families = [family for family in self._families.values() if family.chunks]
        kept = [family for family in families if not self._clashes(family)]
        self._dropped[CLASH] += sum(family.series for family in families) - sum(family.series for family in kept)
        return Relabeled(kept, +self._dropped)

    def _cleaned(self, text: bytes) -> bytes:
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        if not text.isascii() or b"\0" in text:
            lines = text.split(b"\n")
            good = [line for line in lines if _is_text(line)]
            self._dropped[MALFORMED] += len(lines) - len(good)
            text = b"\n".join(good)
        return b"\n%b\n" % text.strip(b"\n")

    def _clashes(self, family: Family) -> bool:
        return family.name.startswith(_RESERVED_PREFIXES) or not self._reserved.isdisjoint(
            (family.name, *sample_names(family.name, family.type))
        )

    # --- comments --------------------------------------------------------------------------------------------------

    def _comment(self, line: bytes) -> None:
        comment = _read_comment(line)
        if comment is None:
            self._dropped[MALFORMED] += not _REMARK.match(line)
            return
        kind, name, rest = comment
        family = self._families.get(name)
        if family is None:
            if name in self._owners:  # a sample of an earlier family, declared as a family of its own
                self._dropped[MALFORMED] += 1
                return
            family = self._declare(name)
        if kind == b"HELP":
            family.help = family.help or rest
        elif name in self._implicit and (not family.chunks or rest not in (b"histogram", b"summary")):
            self._implicit.discard(name)
            family.type = rest.decode()
            for sample in sample_names(family.name, family.type):
                self._owners.setdefault(sample.encode(), family)
        self._current = family

    def _declare(self, name: bytes) -> Family:
        family = self._families[name] = self._owners[name] = Family(name.decode(), "untyped")
        self._implicit.add(name)
        return family

    # --- samples ---------------------------------------------------------------------------------------------------

    def _block(self, block: bytes) -> None:
        """Lines of samples, between two line ends."""
        count = block.count(b"\n") - 1
        if (
            count >= _SMALL_BLOCK
            and count <= self._room
            and self._current
            and self._by_shape(block, self._current, count)
        ):
            return
        family: Family | None = None
        plain: list[bytes] = []  # lines for `family` that are the same in both formats
        for line in block.split(b"\n"):
            if not line or line.isspace():
                continue
            if line.lstrip().startswith(b"#"):
                self._comment(line.strip())
                continue
            sample = self._sample(line.removesuffix(b"\r"))
            if sample is None:
                continue
            owner, lines = sample
            if owner is not family or lines.openmetrics is not None:
                _add(family, plain)
                family, plain = owner, []
            if lines.openmetrics is not None:
                owner.chunks.append(lines)
            else:
                plain.append(lines.text)
        _add(family, plain)

    def _by_shape(self, block: bytes, family: Family, count: int) -> bool:
        names = [name.encode() for name in sample_names(family.name, family.type)]
        shapes = []
        for name in names:
            if self._owners.get(name) is not family:
                continue
            at = block.find(b"\n%b{" % name) + 1
            if at and (shape := _shape(block[at : block.index(b"\n", at)])) is not None:
                shapes.append(shape)
        pattern = self._pattern(tuple(shapes))
        if pattern is None or not pattern.fullmatch(block, 1):
            return False
        for name in names:
            block = block.replace(b"\n%b{" % name, b"\n%b{%b," % (name, self._label))
        family.chunks.append(Chunk(block[1:], count))
        self._room -= count
        return True

    def _pattern(self, shapes: "tuple[_Shape, ...]") -> re.Pattern[bytes] | None:
        pattern = _patterns.get(shapes)
        if pattern is None and shapes and self._new_shapes:
            self._new_shapes -= 1
            if len(_patterns) >= _KEPT_SHAPES:
                _patterns.clear()
            pattern = _patterns[shapes] = _compiled(shapes)
        return pattern

    def _sample(self, line: bytes) -> tuple[Family, Chunk] | None:
        match = _SAMPLE.fullmatch(line)
        inside = None if match is None else self._labelled(match[2] or b"")
        if match is None or inside is None or not _in_range(match):
            self._dropped[MALFORMED] += 1
            return None
        if self._room <= 0:
            self._dropped[LIMIT] += 1
            return None
        self._room -= 1
        name, _, value, milliseconds, exemplar, *exemplar_value = match.groups()
        head = b"%b{%b} %b" % (name, inside, value)
        family = self._owners.get(name) or self._declare(name)
        if milliseconds is None and exemplar is None:
            return family, Chunk(head + b"\n", 1)
        text, other = head, head
        if milliseconds is not None:
            text += b" " + milliseconds
            other += b" " + _seconds(milliseconds)
        if exemplar is not None and _takes_exemplar(family, name) and (pairs := _pairs(exemplar)) is not None:
            other += b" # {%b} " % b",".join(_written(pairs))
            other += b" ".join(part for part in exemplar_value if part is not None)
        return family, Chunk(text + b"\n", 1, other + b"\n")

    def _labelled(self, text: bytes) -> bytes | None:
        """What stands between the braces, with our label; None where it is malformed. Apps repeat theirs a lot."""
        if text not in self._labels:
            pairs = _pairs(text)
            if pairs is not None and b"daemon" in pairs:
                pairs = _exported(pairs)
            self._labels[text] = None if pairs is None else b",".join([self._label, *_written(pairs)])
        return self._labels[text]


@lru_cache(maxsize=1024)
def _read_comment(line: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Kind, name and text of a HELP or TYPE line. Kept, because every daemon has the same at every scrape."""
    match = _COMMENT.fullmatch(line)
    if match is None:
        return None
    kind, name, rest = match[1], match[2], match[3] or b""
    if kind == b"HELP":
        return kind, name, _escaped_anew(rest, b"\\n")
    return (kind, name, rest) if rest in _TYPES else None


def _add(family: Family | None, lines: list[bytes]) -> None:
    if family is not None and lines:
        family.chunks.append(Chunk(b"".join(lines), len(lines)))


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in line


def _pairs(text: bytes) -> dict[bytes, bytes] | None:
    """Label names and their escaped values; None where a name comes twice or is one of Prometheus's own (``__…``)."""
    found = _PAIR.findall(text)
    pairs = {name: _escaped_anew(value, b'\\n"') for name, value in found}
    reserved = any(name.startswith(b"__") for name in pairs)
    return None if len(pairs) < len(found) or reserved else pairs


def _written(pairs: dict[bytes, bytes]) -> Iterator[bytes]:
    return (b'%b="%b"' % pair for pair in pairs.items())


def _escaped_anew(text: bytes, escapable: bytes) -> bytes:
    """An escape that the format doesn't know stands for itself: it gets its backslash doubled."""
    if b"\\" not in text:
        return text
    return _BACKSLASH.sub(lambda m: m[0] if m[1] and m[1] in escapable else b"\\\\" + m[1], text)


def _exported(pairs: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Renames the daemon's own label ``daemon``, as Prometheus renames one that it sets itself."""
    name = b"exported_daemon"
    while name in pairs:
        name = b"exported_" + name
    return {(name if key == b"daemon" else key): value for key, value in pairs.items()}


def _in_range(match: re.Match[bytes]) -> bool:
    """Whether Prometheus can read the numbers of a sample: it refuses the whole scrape for one that it can't."""
    milliseconds, *values = match[4], match[3], match[6], match[7]
    if milliseconds is not None and (len(milliseconds) > _MAX_TIMESTAMP_BYTES or abs(int(milliseconds)) > _MAX_INTEGER):
        return False
    return all(
        value is None or (len(value) <= _MAX_VALUE_BYTES and (not isinf(float(value)) or b"n" in value.lower()))
        for value in values
    )


def _seconds(milliseconds: bytes) -> bytes:
    count = int(milliseconds)
    return b"%b%d.%03d" % (b"-" if count < 0 else b"", abs(count) // 1000, abs(count) % 1000)


def _takes_exemplar(family: Family, name: bytes) -> bool:
    return (family.type == "counter" and name.endswith(b"_total")) or (
        family.type == "histogram" and name.endswith(b"_bucket")
    )


# --- shapes --------------------------------------------------------------------------------------------------------

_Shape = tuple[bytes, tuple[bytes, ...]]


def _shape(line: bytes) -> _Shape | None:
    """Name and label names of a line, where the fast path can take its like."""
    match = _SAMPLE.fullmatch(line)
    pairs = None if match is None else _pairs(match[2] or b"")
    return (match[1], tuple(pairs)) if match and pairs and b"daemon" not in pairs else None


_patterns: dict[tuple[_Shape, ...], re.Pattern[bytes]] = {}  # the same for every daemon and scrape; any thread may add


def _compiled(shapes: tuple[_Shape, ...]) -> re.Pattern[bytes]:
    value = rb'"[^"\\\n]*+(?:\\[\\n"][^"\\\n]*+)*+"'
    heads = [
        re.escape(name) + rb"\{" + b",".join(label + b"=" + value for label in names) + rb"\}" for name, names in shapes
    ]
    return re.compile(rb"(?:(?:" + b"|".join(heads) + rb") " + _PLAIN_VALUE + rb"\n)*+")
