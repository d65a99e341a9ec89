"""The documents and sections that comments cite are in the repository."""

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_CITATION = re.compile(r"docs/(protocol|design)\.md,\s+(?:#\s+)?'([^']+)'")


@pytest.mark.parametrize("document", ["protocol", "design"])
def test_a_cited_section_exists(document: str) -> None:
    headings = set(re.findall(r"^#+ (.+)$", (_ROOT / "docs" / f"{document}.md").read_text(), re.MULTILINE))
    cited = {
        (str(path.relative_to(_ROOT)), section)
        for folder in ("meshbridge", "tests", "tools", "benchmarks")
        for path in sorted((_ROOT / folder).rglob("*.py"))
        for name, section in _CITATION.findall(path.read_text())
        if name == document
    }
    assert len(cited) >= 4
    assert {(path, section) for path, section in cited if section not in headings} == set()
