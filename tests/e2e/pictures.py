"""``python -m tests.e2e.pictures`` takes the pictures of the status page in ``docs/pictures``.

The page is that of a real bridge in Debian's Chromium: once at an emulated daemon and sinks that are well, once in
trouble. Its figures are synthetic, since it has just started.
"""

import tempfile
import time
from pathlib import Path

from meshbridge.emulator.past import synthetic_day
from tests.e2e.chromium import Browser, Page
from tests.e2e.figures import filled_ring
from tests.e2e.stage import Stage
from tests.e2e.watched import go

_PLACE = Path(__file__).parents[2] / "docs" / "pictures"
_WIDTH = 1200


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="meshbridge-") as directory:
        for name in ("well", "trouble"):
            Path(directory, name).mkdir()
        with Browser(Path(directory)) as browser:
            with Stage(Path(directory, "well"), well=True) as stage:
                _of_one_that_is_well(stage, browser.page())
            with Stage(Path(directory, "trouble")) as stage:
                _of_one_in_trouble(stage, browser.page())


def _of_one_that_is_well(stage: Stage, page: Page) -> None:
    stage.service.observer.ring = filled_ring(["node-a"], ["log", "hook"])
    page.open(stage.url())
    page.wait_text("1 unhealthy")
    page.wait_text("/s", "#sinks + ul")
    page.wait_text("log", ".plots")
    _take(page, "status-page-light", 1340, dark=False)
    stage.service.journal.append(synthetic_day("node-a", time.time()))
    go(page, "history?range=24h")
    page.wait_text("crasher", ".lanes")
    lane = "document.querySelector('[role=slider][aria-label=\"crasher at node-a\"]')"
    page.evaluate(f"{lane}.focus()")
    for key in ("Home", *["ArrowRight"] * 5, "Enter"):
        page.press(key)
    page.wait_text("panic", ".opened pre")
    _take(page, "status-page-history", 900, dark=False)
    page.close()


def _of_one_in_trouble(stage: Stage, page: Page) -> None:
    stage.service.observer.ring = filled_ring(["node-a", "node-b"], ["log", "hook"], trouble=True)
    stage.refused_letter()
    stage.hook.status = 503
    page.open(stage.url())
    page.wait_text("1 unhealthy")
    page.wait_text("critical sink hook", ".wrong")
    page.wait_text("warning app crasher on node-a", ".wrong")
    page.wait_text("log", ".plots")
    _take(page, "status-page-dark", 1200, dark=True)
    go(page, "delivery?sink=hook")
    page.wait_text("answers 503 (first", "[data-name=hook] table")
    page.evaluate("document.querySelector('[data-name=hook] details').open = true")
    page.wait_text("log", ".plots")
    _take(page, "status-page-delivery", 1000, dark=False)
    page.close()


def _take(page: Page, name: str, height: int, *, dark: bool) -> None:
    page.look(_WIDTH, height, dark=dark)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.evaluate("scrollTo(0, 0)")
    (_PLACE / f"{name}.png").write_bytes(page.picture())


if __name__ == "__main__":
    main()
