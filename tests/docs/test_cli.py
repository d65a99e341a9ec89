"""docs/cli.md: every command has its place, and its examples are what comes of them."""

import re

import pytest

from tools.cli import PAGE, Example, examples, masked, site, updated
from tools.manpage import commands

TEXT = PAGE.read_text(encoding="utf-8")
# They are shown, but not run: the demo has its ports, which may be in use here.
NOT_RUN = {"meshbridge demo", "meshbridge login"}


def test_every_command_has_its_place() -> None:
    places = re.findall(r"^### `(meshbridge [\w -]+)`$", TEXT, re.MULTILINE)
    assert len(places) == len(set(places))
    assert set(places) == {command.name for command in commands()}


def test_every_command_has_an_example_there() -> None:
    for part in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]:
        name = part.partition("\n")[0].strip("`")
        run = [example.command for example in examples(part)]
        assert name in NOT_RUN or any(re.search(rf"\b{name}\b", command) for command in run), name


def test_options_in_the_text_exist() -> None:
    there = {name for command in commands() for parameter in command.parameters for name in parameter.names}
    for option in re.findall(
        r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    ):
        assert option in there | {"--help"}, option


@pytest.mark.slow
def test_the_examples_are_what_comes() -> None:
    with site() as here:
        assert updated(TEXT, here.run) == TEXT, "run `python -m tools.cli`, and look at what it changed"


def test_an_example_that_has_come_out_otherwise_is_written_anew() -> None:
    page = "```console\n$ one\n12 s\n$ two\nold\n```\n```console until up\n$ three\nold\n```\n"
    come = {"one": "7 s\n", "two": "new\nwords\n", "three": "first\nis up now\nand more\n"}
    assert [example.command for example in examples(page)] == list(come)

    def run(example: Example) -> str:
        return come[example.command]

    once = updated(page, run)
    assert once == (
        "```console\n$ one\n12 s\n$ two\nnew\nwords\n```\n```console until up\n$ three\nfirst\nis up now\n```\n"
    )
    assert updated(once, run) == once


def test_what_is_of_the_moment_is_masked() -> None:
    then = "2026-11-25T08:11:35Z  web  8YJmRcYk2ZN  1.6 MiB   3d 4h  mbt_" + "x" * 43
    now = "2027-01-02T18:01:05Z web abcdefghijk 999 B 12s mbt_" + "y-" * 21 + "y"
    assert masked(then) == masked(now)
    assert masked("web is up") != masked("web is down")
