"""Families: merging, cutting, and writing them in both formats."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from meshbridge.exporter.exposition import (
    Chunk,
    Family,
    cut,
    escape_help,
    escape_value,
    labels,
    merge,
    number,
    render_openmetrics,
    render_text,
    sample_names,
)


def family(name: str, kind: str, *lines: str, text: str = "") -> Family:
    made = Family(name, kind, escape_help(text))
    made.add(lines)
    return made


def written_text(families: list[Family]) -> bytes:
    return b"".join(render_text(families))


def written_openmetrics(families: list[Family]) -> bytes:
    return b"".join(render_openmetrics(families))


def openmetrics(families: list[Family]) -> list[Metric]:
    text = written_openmetrics(families).decode()
    return list(openmetrics_parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


# --- merging -------------------------------------------------------------------------------------------------------


def test_merge_makes_one_family_of_each_name_sorted_by_name() -> None:
    families, left_out = merge(
        [
            ("a", [family("y", "gauge", "y 1", text="Why"), family("x", "gauge", "x 1")]),
            ("b", [family("x", "gauge", "x 2", text="Ex"), family("z", "gauge", "z 1")]),
        ]
    )
    assert written_text(families).decode().splitlines() == [
        "# HELP x Ex",
        "# TYPE x gauge",
        "x 1",
        "x 2",
        "# HELP y Why",
        "# TYPE y gauge",
        "y 1",
        "# TYPE z gauge",
        "z 1",
    ]
    assert left_out == {}


def test_merge_leaves_its_arguments_alone() -> None:
    first = family("x", "gauge", "x 1")
    merge([("a", [first]), ("b", [family("x", "counter", "x 2")])])
    assert first == family("x", "gauge", "x 1")


@pytest.mark.parametrize(
    ("one", "other", "result"),
    [("gauge", "gauge", "gauge"), ("gauge", "counter", "untyped"), ("untyped", "gauge", "untyped")],
)
def test_simple_types_that_differ_become_untyped(one: str, other: str, result: str) -> None:
    families, left_out = merge([("a", [family("x", one, "x 1")]), ("b", [family("x", other, "x 2")])])
    assert [found.type for found in families] == [result]
    assert families[0].series == 2
    assert not left_out


@pytest.mark.parametrize(("one", "other"), [("gauge", "histogram"), ("histogram", "summary"), ("summary", "untyped")])
def test_shapes_that_differ_cost_the_later_daemon_its_family(one: str, other: str) -> None:
    families, left_out = merge([("a", [family("x", one, "x 1")]), ("b", [family("x", other, "x 2", "x 3")])])
    assert [(found.type, found.series) for found in families] == [(one, 1)]
    assert left_out == {"b": 2}


def test_a_family_named_like_anothers_sample_is_left_out() -> None:
    families, left_out = merge(
        [("a", [family("x", "histogram", "x_sum 1")]), ("b", [family("x_sum", "gauge", "x_sum 2")])]
    )
    assert [found.name for found in families] == ["x"]
    assert left_out == {"b": 1}


def test_a_family_without_series_is_left_out_silently() -> None:
    assert merge([("a", [family("x", "gauge")])]) == ([], {})


# --- cutting -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), max_size=5), st.integers(0, 20))
def test_cut_keeps_the_first_series_in_order(sizes: list[int], limit: int) -> None:
    families = [family(f"f{n}", "gauge", *(f"f{n} {i}" for i in range(size))) for n, size in enumerate(sizes)]
    kept, lost = cut(families, limit)
    everything = [line for line in written_text(families).splitlines() if line[:1] != b"#"]
    found = [line for line in written_text(kept).splitlines() if line[:1] != b"#"]
    assert found == everything[:limit]
    assert lost == max(0, len(everything) - limit)


def test_cut_falls_inside_a_chunk_or_between_two() -> None:
    chunks = [Chunk(b"x 1\nx 2\n", 2), Chunk(b"x 3\nx 4\n", 2)]
    for limit in range(5):
        kept, lost = cut([Family("x", "gauge", b"", list(chunks))], limit)
        assert written_text(kept).count(b"\nx") == limit
        assert lost == 4 - limit


def test_cut_cuts_both_formats_alike() -> None:
    both = Family("x", "gauge", b"", [Chunk(b"x 1 5\nx 2 6\n", 2, b"x 1 0.005\nx 2 0.006\n")])
    kept, lost = cut([both], 1)
    assert kept[0].chunks == [Chunk(b"x 1 5\n", 1, b"x 1 0.005\n")]
    assert lost == 1


# --- writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (True, "1"), (False, "0"), (1.5, "1.5"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"),
     (10**30, str(10**30)), ("1", None), (None, None), ([], None)],
)  # fmt: skip
def test_numbers_are_written_as_go_reads_them(value: object, text: str | None) -> None:
    assert number(value) == text


@given(st.text())
def test_label_values_survive_both_formats(value: str) -> None:
    sample = f"x{labels({'a': value})} 1"
    expected = value.encode("utf-8", "replace").decode()
    made = [family("x", "gauge", sample)]
    for families in (list(text_string_to_metric_families(written_text(made).decode())), openmetrics(made)):
        assert families[0].samples[0].labels == {"a": expected}


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"])))
def test_help_survives_both_formats(text: str) -> None:
    made = [family("x", "gauge", "x 1", text=f"\\{text}\n")]
    assert openmetrics(made)[0].documentation == f"\\{text}\n"
    if '"' not in text and "#" not in text:  # prometheus_client takes a quote in a help text for the start of a name
        plain = next(iter(text_string_to_metric_families(written_text(made).decode())))
        assert plain.documentation == f"\\{text}\n"


def test_no_labels_no_braces() -> None:
    assert labels({}) == ""
    assert escape_value(7) == "7"


def test_help_is_left_out_where_there_is_none() -> None:
    assert written_text([family("x", "gauge", "x 1")]) == b"# TYPE x gauge\nx 1\n"


@pytest.mark.parametrize(
    ("name", "kind", "type_line"),
    [
        ("x_total", "counter", "# TYPE x counter"),
        ("x", "counter", "# TYPE x unknown"),  # never renamed
        ("x", "untyped", "# TYPE x unknown"),
        ("x", "gauge", "# TYPE x gauge"),
    ],
)
def test_openmetrics_never_changes_the_name_of_a_series(name: str, kind: str, type_line: str) -> None:
    made = [family(name, kind, f"{name} 1")]
    assert written_openmetrics(made).decode().splitlines() == [type_line, f"{name} 1", "# EOF"]
    assert [sample.name for found in openmetrics(made) for sample in found.samples] == [name]


def test_a_counter_beside_a_gauge_of_its_short_name_keeps_its_own() -> None:
    made = [family("x", "gauge", "x 1"), family("x_total", "counter", "x_total 2")]
    assert written_openmetrics(made).decode().splitlines()[2:4] == ["# TYPE x_total unknown", "x_total 2"]


def test_bounds_are_canonical_in_openmetrics_only() -> None:
    lines = [
        'x_bucket{a="{le=\\"1\\"}",le="0.5"} 1',
        'x_bucket{a="{le=\\"1\\"}",le="1"} 2',
        'x_bucket{a="{le=\\"1\\"}",le="1e1"} 2',
        'x_bucket{a="{le=\\"1\\"}",le="odd"} 2',
        'x_bucket{a="{le=\\"1\\"}",le="+Inf"} 3',
    ]
    made = family("x", "histogram", *lines)
    assert written_text([made]).decode().splitlines()[1:] == lines
    found = written_openmetrics([made]).decode().splitlines()[1:-1]
    assert found == [lines[0], lines[1].replace('le="1"}', 'le="1.0"}'), lines[2].replace("1e1", "10.0"), *lines[3:]]


def test_names_that_a_family_answers_to() -> None:
    counter, histogram = family("x_total", "counter"), family("x", "histogram")
    assert counter.answers_to(frozenset({"x_total"}))
    assert counter.answers_to(frozenset({"x"}))
    assert histogram.answers_to(frozenset({"other", "x_bucket"}))
    assert not histogram.answers_to(frozenset({"x_total"}))
    assert sample_names("x", "summary") == ("x", "x_sum", "x_count")
