"""The picture of the parts in docs/design.md is that of the imports."""

from tools.layers import PAGE, picture, reduced, updated


def test_the_picture_is_that_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert updated(page) == page, "run `python -m tools.layers`, and look at what it changed"


def test_an_arrow_that_follows_from_others_is_left_out() -> None:
    imports = {"a": frozenset({"b", "c"}), "b": frozenset({"c"}), "c": frozenset[str]()}
    assert reduced(imports) == {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset()}
    assert picture(reduced(imports)) == "```mermaid\nflowchart TD\n    a --> b\n    b --> c\n```\n"
