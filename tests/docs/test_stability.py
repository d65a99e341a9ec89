"""What users rely on stays: the names in tests/data/stable are those of the code, or their end is in the changelog."""

import re
from pathlib import Path

import pytest

from tools.stable import LISTS, kept, present

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "stability.md").read_text(encoding="utf-8")


def _removed() -> str:
    """The text of every entry under *Removed* or *Changed* of the changelog."""
    text = (_ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^### (?:Removed|Changed)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("name", LISTS)
def test_a_new_name_is_in_the_list(name: str) -> None:
    added = set(present(name)) - set(kept(name))
    assert added == set(), "new: run `python -m tools.stable`; from its release on, the name stays"


@pytest.mark.parametrize("name", LISTS)
def test_a_name_that_goes_is_in_the_changelog(name: str) -> None:
    removed = _removed()
    gone = [line for line in kept(name) if line not in set(present(name)) and f"`{line}`" not in removed]
    assert gone == [], "users rely on these: keep them with a warning, or write `<line>` under Removed in CHANGELOG.md"


@pytest.mark.parametrize("name", LISTS)
def test_the_page_says_what_a_list_promises(name: str) -> None:
    assert f"tests/data/stable/{name}.txt" in _PAGE
