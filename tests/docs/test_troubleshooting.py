"""docs/troubleshooting.md: each message that it quotes stands in the code, as it is quoted."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.docs.pages import ROOT, Page

PAGE = Page(ROOT / "docs" / "troubleshooting.md")
QUOTED = re.findall(
    r"`([^`]+)`", "\n".join(re.findall(r"^\| ((?!Prometheus:|you see).*?) \|(?= )", PAGE.text, re.MULTILINE))
)


def texts() -> Iterator[str]:
    """Every text in the code, with … for what is put into it."""
    for path in sorted((ROOT / "meshbridge").rglob("*.py")):
        if "emulator" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "…"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                yield node.value


@pytest.fixture(scope="module")
def in_the_code() -> list[str]:
    return list(dict.fromkeys(texts()))


SPOKEN_BY_OTHERS = {"Connection refused"}


@pytest.mark.parametrize("message", sorted(set(QUOTED) - SPOKEN_BY_OTHERS))
def test_a_quoted_message_stands_in_the_code(message: str, in_the_code: list[str]) -> None:
    """Its pieces between … come one after the other in one text of the code."""
    pieces = [re.escape(piece.strip(" :")) for piece in message.split("…") if piece.strip(" :")]
    assert max(map(len, pieces)) >= 8, "too short to be unique"
    pattern = re.compile(".*?".join(pieces), re.DOTALL)
    assert any(pattern.search(text) for text in in_the_code), message


def test_there_are_messages() -> None:
    assert len(QUOTED) > 50
