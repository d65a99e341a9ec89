"""Every link within the project leads somewhere: to a file, and to a heading in it."""

from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, Page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Page) -> None:
    for link in page.links:
        if "://" in link or link.startswith("mailto:"):
            continue
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        assert path.exists(), f"{link}: no such file"
        assert path.is_relative_to(ROOT), f"{link}: outside the project"
        if anchor:
            assert anchor in Page(path).anchors, f"{link}: no such heading"


def test_every_guide_is_in_the_index() -> None:
    index = Page(ROOT / "docs" / "README.md")
    linked = {(index.path.parent / link.partition("#")[0]).resolve() for link in index.links if "://" not in link}
    guides = {page.path for page in PAGES if page.path.parent == ROOT / "docs"} - {index.path}
    assert guides <= linked


def test_anchors_are_made_as_the_forges_make_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# `type: mqtt`, and more\n## A [link](x.md)\n## Twice\n## Twice\n```sh\n# no heading\n```\n")
    assert Page(page).anchors == {"type-mqtt-and-more", "a-link", "twice", "twice-1"}
