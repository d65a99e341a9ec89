"""``python -m tests.e2e.pictures`` takes the pictures of the status page in ``docs/pictures``.

The page is that of a real bridge, at an emulated daemon and one that is not there, in Debian's Chromium.
"""

import tempfile
from pathlib import Path

from tests.e2e.chromium import Browser
from tests.e2e.stage import Stage

_PLACE = Path(__file__).parents[2] / "docs" / "pictures"
_WIDTH, _HEIGHT = 1200, 930


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="meshbridge-") as directory,
        Stage(Path(directory)) as stage,
        Browser(Path(directory)) as browser,
    ):
        stage.refused_letter()
        page = browser.page()
        page.open(stage.url())
        page.wait_text("1 unhealthy")
        page.wait_text("/s", "#sinks + ul")
        for name, dark in (("light", False), ("dark", True)):
            page.look(_WIDTH, _HEIGHT, dark=dark)
            (_PLACE / f"status-page-{name}.png").write_bytes(page.picture())
        page.close()


if __name__ == "__main__":
    main()
