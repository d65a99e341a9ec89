"""The project's Markdown as tests look at it: pages, their headings, links, blocks and words."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^( *)```([\w ]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


@dataclass(frozen=True)
class Page:
    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """Without blocks of code."""
        return _FENCE.sub("", self.text)

    @cached_property
    def anchors(self) -> set[str]:
        """Of the headings, as GitHub makes them."""
        found: dict[str, int] = {}
        for heading in re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE):
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower().strip()
            anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
            found[anchor] = found.get(anchor, -1) + 1
        return {
            f"{anchor}-{number}" if number else anchor for anchor, last in found.items() for number in range(last + 1)
        }

    @cached_property
    def links(self) -> list[str]:
        return _LINK.findall(_CODE.sub("", self.prose))

    @cached_property
    def words(self) -> list[str]:
        """What stands in backticks within a line."""
        return _CODE.findall(self.prose)

    def blocks(self, *languages: str) -> list[str]:
        """The blocks of some languages, less their indentation."""
        return [body for language, _, body in self.all_blocks() if language in languages]

    def all_blocks(self) -> list[tuple[str, str, str]]:
        """(language, what stands behind it, body) of each block, in order."""
        return [
            (*kind.partition(" ")[::2], re.sub(rf"^{indent}", "", body, flags=re.MULTILINE))
            for indent, kind, body in _FENCE.findall(self.text)
        ]


def pages() -> Iterator[Page]:
    """Every page that people read: the root's, the guides, and those beside what is deployed."""
    for place in ("*.md", "docs/**/*.md", "deploy/**/*.md"):
        for path in sorted(ROOT.glob(place)):
            if path.name != "readme-head.md":  # a part of the chart's README
                yield Page(path)


PAGES = list(pages())
GUIDES = [page for page in PAGES if page.path.name != "CHANGELOG.md" and "adr" not in page.path.parts]
