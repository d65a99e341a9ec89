"""Pages of a test whose faults fail it, and what each view of the status page must be on every screen."""

import json
from pathlib import Path

from tests.e2e.chromium import Browser, Page
from tests.e2e.stage import Stage

__all__ = ["Watched", "assert_fit_for_all", "go"]

AXE = Path(__file__).parents[1] / "data" / "axe-core" / "axe.min.js"
SCREENS = ((1440, 900, False), (360, 740, True))  # a light desk and a dark phone, each in pixels


class Watched:
    """Pages whose faults, and requests to others, fail the test at its end."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._pages: list[tuple[Page, str]] = []

    def __call__(self, stage: Stage, url: str | None = None) -> Page:
        page = self._browser.page()
        self._pages.append((page, stage.root))
        page.open(stage.url() if url is None else url)
        return page

    def close(self) -> None:
        for page, _ in self._pages:
            page.close()
        for page, root in self._pages:
            assert not page.faults, page.faults
            others = [url for url in page.requests if not url.startswith((root, "data:"))]  # data: icons of date fields
            assert not others, others


def go(page: Page, view: str) -> None:
    page.evaluate(f"location.hash = {json.dumps(view)}")


def assert_fit_for_all(page: Page) -> None:
    """On every screen nothing for axe to find, and nothing wider than the window."""
    page.evaluate(AXE.read_text(encoding="utf-8") + ";0")
    for width, height, dark in reversed(SCREENS):
        page.look(width, height, dark=dark)
        found = page.evaluate(
            """axe.run(document, {resultTypes: ["violations"]}).then(
                found => found.violations.map(one => [one.id, one.nodes.map(node => node.html).slice(0, 3)]))"""
        )
        assert found == [], f"at {width} pixels: {found}"
        wide = page.evaluate(
            """[...document.querySelectorAll("body *")]
                .filter(e => e.checkVisibility() && !e.closest("nav, pre, footer"))
                .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 200))"""
        )
        assert wide == [], f"at {width} pixels: {wide}"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
