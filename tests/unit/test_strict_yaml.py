"""YAML in which no key hides another."""

import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshbridge.model.strict_yaml import DuplicateKeyError, load_yaml


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("journal: {path: /a}\nsinks: {}\njournal: {max_age: 1d}\n", "journal", "1 and 3"),
        ("daemons:\n  node-a: {url: a}\n  node-a: {url: b}\n", "daemons.node-a", "2 and 3"),
        ("a: {1: x, '1': y}\n", "a.1", "1 and 1"),
        ("yes: x\non: y\n", "on", "1 and 2"),
        ("a:\n  - b: 1\n    b: 2\n", "a.0.b", "2 and 3"),
        ("{a: 1, a: 1}", "a", "1 and 1"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  a: 2\n", "y.a", "1 and 4"),
        ("x: &x {a: 1}\ny: &y {a: 2}\nz:\n  <<: [*x, *y]\n", "z.a", "1 and 2"),
        ("x: &x {a: 1}\ny: &y {<<: *x, b: 1}\nz: {<<: *y, a: 3}\n", "z.a", "1 and 3"),
        ("? [1, 2]\n: {a: 1, a: 2}\n", "a", "2 and 2"),
    ],
)
def test_a_key_that_stands_twice_is_named_with_both_lines(text: str, key: str, lines: str) -> None:
    with pytest.raises(DuplicateKeyError) as caught:
        load_yaml(text)
    assert key in str(caught.value)
    assert f"in lines {lines}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: 1\nb: {a: 2}\n", {"a": 1, "b": {"a": 2}}),
        (
            "x: &x {a: 1}\ny: {<<: *x, b: 2}\nz: {<<: *x, b: 3}\n",
            {"x": {"a": 1}, "y": {"a": 1, "b": 2}, "z": {"a": 1, "b": 3}},
        ),
        ("x: &x [1]\ny: *x\n", {"x": [1], "y": [1]}),
        ("a: null\n", {"a": None}),
    ],
)
def test_all_else_is_read_as_ever(text: str, value: object) -> None:
    assert load_yaml(text) == value


@pytest.mark.parametrize("text", ["&a [*a]", "a: &a {b: *a}", "<<: &a {<<: *a}", "x: &x {<<: *x}"])
def test_a_value_that_holds_itself_comes_to_an_end(text: str) -> None:
    with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
        load_yaml(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="ascii", exclude_categories=["Cc"])),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), below),
    max_leaves=20,
)


@given(VALUES)
def test_what_yaml_writes_is_read_back(value: object) -> None:
    text = yaml.safe_dump(value)
    assert load_yaml(text) == yaml.safe_load(text)
