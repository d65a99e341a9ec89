"""docs/terminal.py: a picture of a terminal that shows no secret and loads nothing."""

import re
import xml.etree.ElementTree as ET

from tools.terminal import PICTURE, drawn

LINES = ["  page   \x1b[1mhttp://127.0.0.1:9666/#token=mbt_verysecret\x1b[0m", "\x1b[31mexit code 3\x1b[0m"]


def test_it_has_the_lines_and_not_the_token() -> None:
    svg = drawn(LINES)
    text = " ".join(ET.fromstring(svg).itertext()).replace("\xa0", " ")
    assert "exit code 3" in text
    assert "verysecret" not in svg


def test_the_picture_is_one_and_loads_nothing() -> None:
    svg = PICTURE.read_text(encoding="utf-8")
    assert "meshbridge/demo/crasher/exit" in " ".join(ET.fromstring(svg).itertext())
    assert not re.search(r"url\(['\"]?http|@import|<image|href=", svg)
