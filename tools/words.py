"""``python -m tools.words`` finds words that a reader in a hurry stumbles over; `make lint` runs it.

The project writes plain technical English: short active sentences and the field's own terms. This list has the signs of
another tone, each with what to write instead. A line that needs such a word, in a quotation say, ends with the comment
``words: <reason>``.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["RULES", "Finding", "findings", "main"]

ROOT = Path(__file__).parents[1]
_READ = (
    "*.py",
    "*.md",
    "*.yml",
    "*.yaml",
    "*.toml",
    "*.js",
    "*.html",
    "*.j2",
    "*.tpl",
    "*.txt",
    "Makefile",
    "Dockerfile",
)
_LEFT_OUT = ("tests/data/", "LICENSE", "tools/words.py", "requirements")
_EXCEPTION = re.compile(r"words: \S")


class Rule(NamedTuple):
    """A pattern, and what to write instead."""

    pattern: re.Pattern[str]
    instead: str


def _rule(pattern: str, instead: str) -> Rule:
    return Rule(re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), instead)


RULES = (
    _rule("whoever|whom|whomever", "name them: the caller, the client, a sink that …"),
    _rule("nobody|no one", "no client, no consumer, no other process"),
    _rule("anew|afresh", "again, new"),
    _rule("far ends?", "destination"),
    _rule("takes? nothing|took nothing", "refuses, cannot be written, does not accept"),
    _rule("(?:has|have|had|takes?) (?:its|their) turn", "runs, is served"),
    _rule("(?:is|are|was|were|be|been) told", "is reported, is logged, receives"),
    _rule("(?:is|are|was|were|be) made good|makes? good", "is repaired"),
    _rule("as asked", "as requested"),
    _rule("wish(?:es|ed)?", "requested, wanted"),
    _rule("of the moment", "current"),
    _rule("lets? go of", "closes, releases"),
    _rule("(?:given|gives) a rest", "circuit breaker opened"),
    _rule("fancy|fancies", "unexpected, arbitrary"),
    _rule("whence|thereof|herein|thither|hitherto|henceforth", "plain words"),
    _rule("made up|makes up|make up", "synthesized, reconciled, invented"),
    _rule("settings (?:are|were|is) read again", "configuration reloaded"),
    _rule("for whoever|to whoever", "for clients that …"),
    _rule("puts? right|put right", "repair, correct"),
    _rule("said once|say so|says so|said so", "logged once, reports it"),
    _rule("goes? out by itself|lives? on", "is removed, depends on"),
    _rule("bury|buried|buries", "dead-letter"),
    _rule("hurry|nudge[sd]?", "flush, wake"),
)


class Finding(NamedTuple):
    """Where a word stands."""

    path: str
    line: int
    word: str
    instead: str


def findings(path: str, text: str) -> Iterator[Finding]:
    """What the rules find in a text."""
    for number, line in enumerate(text.splitlines(), 1):
        if _EXCEPTION.search(line):
            continue
        for rule in RULES:
            for match in rule.pattern.finditer(line):
                yield Finding(path, number, match[0], rule.instead)


def _files(places: list[str]) -> Iterator[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *(places or _READ)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.split("\0"):
        if name and not any(part in name for part in _LEFT_OUT) and any(Path(name).match(kind) for kind in _READ):
            yield name


def main(places: list[str]) -> int:
    """Prints the findings below ``places`` (all of the repository where there are none)."""
    count = 0
    for name in _files(places):
        for finding in findings(name, (ROOT / name).read_text(encoding="utf-8")):
            print(f"{finding.path}:{finding.line}: {finding.word!r}: write instead: {finding.instead}")
            count += 1
    if count:
        print(f"{count} words in another tone than the project's: see {Path(__file__).name}")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
