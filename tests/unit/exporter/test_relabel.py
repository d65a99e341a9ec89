"""The fast path, compared series by series with the parser of prometheus_client."""

import time
from collections import Counter
from collections.abc import Iterable
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

from meshbridge.exporter import relabel as relabel_module
from meshbridge.exporter.exposition import CLASH, LIMIT, MALFORMED, merge, render_openmetrics, render_text
from meshbridge.exporter.relabel import Relabeled, relabel

OLDER = b"""\
# HELP appmesh_prom_scrape_count prometheus scrape count
# TYPE appmesh_prom_scrape_count counter
appmesh_prom_scrape_count{host="node-a",pid="812",listen="9669"} 4.000000
# HELP appmesh_prom_scrape_up prometheus scrape alive
# TYPE appmesh_prom_scrape_up gauge
appmesh_prom_scrape_up{host="node-a",pid="812"} 1.000000
# HELP appmesh_prom_process_start_count application process spawn count
# TYPE appmesh_prom_process_start_count counter
appmesh_prom_process_start_count{application="ping",host="node-a",id="cafe"} 3.000000
appmesh_prom_process_start_count{application="loki",host="node-a",id="beef"} 1.000000
# HELP appmesh_prom_process_memory_gauge application process memory bytes
# TYPE appmesh_prom_process_memory_gauge gauge
appmesh_prom_process_memory_gauge{application="ping",host="node-a",id="cafe",pid="900"} 4767744.000000
# HELP appmesh_prom_http_request_count application http request count
# TYPE appmesh_prom_http_request_count counter
appmesh_prom_http_request_count{host="node-a",method="GET",pid="812",listen="6060"} 17.000000
"""


def parse_text(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def parse_openmetrics(text: str) -> list[Metric]:
    return list(openmetrics_parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


Series = tuple[str, frozenset[tuple[str, str]], str, float | None]


def series(families: Iterable[Metric], **more: str) -> Counter[Series]:
    """Every series, as a value that can be compared: NaN is NaN, and our label is on it."""
    found: Counter[Series] = Counter()
    for family in families:
        for sample in family.samples:
            names = dict(sample.labels)
            if "daemon" in more and "daemon" in names:
                names["exported_daemon"] = names.pop("daemon")
            timestamp = None if sample.timestamp is None else float(sample.timestamp)
            found[sample.name, frozenset((names | more).items()), repr(float(sample.value)), timestamp] += 1
    return found


def served(result: Relabeled) -> str:
    return b"".join(render_text(merge([("d", result.families)])[0])).decode()


def served_openmetrics(result: Relabeled) -> str:
    return b"".join(render_openmetrics(merge([("d", result.families)])[0])).decode()


def types(families: Iterable[Metric]) -> dict[str, str]:
    return {family.name: family.type for family in families}


@pytest.fixture(scope="session")
def older_metrics() -> bytes:
    return OLDER


@pytest.mark.parametrize("which", ["golden_metrics", "older_metrics"])
def test_every_series_of_a_real_daemon_arrives_with_its_daemon(which: str, request: pytest.FixtureRequest) -> None:
    text: bytes = request.getfixturevalue(which)
    result = relabel(text, "node-a")
    expected = parse_text(text.decode())
    found = parse_text(served(result))
    assert series(found) == series(expected, daemon="node-a")
    assert types(found) == types(expected)
    assert {f.name: f.documentation for f in found} == {f.name: f.documentation for f in expected}
    assert not result.dropped


@pytest.mark.parametrize("which", ["golden_metrics", "older_metrics"])
def test_openmetrics_has_the_same_series_under_the_same_names(which: str, request: pytest.FixtureRequest) -> None:
    text: bytes = request.getfixturevalue(which)
    plain = {line.split("{")[0] for line in served(relabel(text, "d")).splitlines() if line[0] != "#"}
    opened = served_openmetrics(relabel(text, "d"))
    families = parse_openmetrics(opened)
    assert {line.split("{")[0] for line in opened.splitlines() if line[0] != "#"} == plain
    assert sum(len(family.samples) for family in families) == sum(1 for line in text.splitlines() if line[:1] != b"#")


# --- generated text ------------------------------------------------------------------------------------------------

blank = st.sampled_from(["", " ", "\t", "  ", " \t "])
gap = st.sampled_from([" ", "\t", "  ", " \t "])
base = st.from_regex(r"[a-z_:][a-z0-9_:]{0,6}", fullmatch=True)
label_name = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True) | st.sampled_from(["daemon", "le", "quantile"])
label_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8) | st.sampled_from(
    ["}", "{", '",a="', "\\", "\n", "#", " # {", "a\nb{", "x,le=", "é", "a\\nb"]
)
value = (
    st.sampled_from(
        ["NaN", "+Inf", "-Inf", "Inf", "0", "-0", "1e5", "1E-5", "+5", "5.", ".5", "1.7976931348623157e308"]
    )
    | st.integers(-(2**70), 2**70).map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
)
timestamp = st.none() | st.integers(-(10**13), 10**13)


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


label_sets = st.dictionaries(label_name, label_text, max_size=4)


def plainly(name: str, pairs: dict[str, str]) -> str:
    inside = ",".join(f'{key}="{escaped(text)}"' for key, text in pairs.items())
    return f"{name}{{{inside}}}" if pairs else name


@st.composite
def odd_line(draw: st.DrawFn, name: str) -> str:
    """One sample, written as the format allows and no library does."""
    pairs: dict[str, str] = draw(label_sets)
    text = draw(blank) + name
    braces: bool = draw(st.booleans())
    if pairs or braces:
        text += draw(blank) + "{" + draw(blank)
        text += ",".join(
            f'{draw(blank)}{key}{draw(blank)}={draw(blank)}"{escaped(words)}"{draw(blank)}'
            for key, words in pairs.items()
        )
        text += (draw(st.sampled_from(["", ","])) if pairs else "") + draw(blank) + "}" + draw(blank)
        text += "" if text[-1] in " \t" else " "
    else:
        text += draw(gap)
    text += draw(value)
    if (milliseconds := draw(timestamp)) is not None:
        text += f"{draw(gap)}{milliseconds}"
    return text + draw(blank) + draw(st.sampled_from(["", "\r"]))


@st.composite
def plain_lines(draw: st.DrawFn, name: str) -> list[str]:
    """Many samples of one shape, as daemons write them."""
    keys = draw(st.lists(label_name, unique=True, max_size=3))
    rows = draw(st.lists(st.tuples(st.lists(label_text, min_size=3, max_size=3), value), max_size=12))
    return [f"{plainly(name, dict(zip(keys, texts, strict=False)))} {found}" for texts, found in rows]


@st.composite
def family_text(draw: st.DrawFn, name: str) -> list[str]:
    kind = draw(st.sampled_from(["counter", "gauge", "histogram", "summary", "untyped", None]))
    lines = []
    if draw(st.booleans()):
        words = draw(st.text(st.characters(categories=["L", "N"], exclude_characters='"#'), max_size=10))
        lines.append(f"# HELP {name} {words}\\\\n\\nmore".rstrip())
    if kind is not None:
        lines.append(f"{draw(blank)}#{draw(gap)}TYPE{draw(gap)}{name}{draw(gap)}{kind}")
    suffixes = {"histogram": ["_bucket", "_sum", "_count"], "summary": ["", "_sum", "_count"]}.get(kind or "", [""])
    for _ in range(draw(st.integers(0, 3))):
        sample = name + draw(st.sampled_from(suffixes))
        lines += draw(st.one_of(st.lists(odd_line(sample), max_size=3), plain_lines(sample)))
        lines += draw(st.sampled_from([[], [""], ["# a remark"], ["#"], ["  "]]))
    return lines


@st.composite
def exposition_text(draw: st.DrawFn) -> str:
    names = draw(st.lists(base, unique=True, max_size=4))
    samples = [name + suffix for name in names for suffix in ("", "_sum", "_count", "_bucket", "_total")]
    assume(len(set(samples)) == len(samples))
    lines = [line for name in names for line in draw(family_text(name))]
    return "\n".join(lines) + draw(st.sampled_from(["", "\n"]))


@given(exposition_text())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example('a{x="1",daemon="2",} 1 5\n')
@example('# TYPE a histogram\na_bucket{le="1"} 1\na_sum 2\na_count 3')
def test_generated_text_means_the_same_as_to_prometheus_client(text: str) -> None:
    expected = parse_text(text)
    for small_block in (1, 1000):  # by shape where it can be, and line by line
        with patch.object(relabel_module, "_SMALL_BLOCK", small_block):
            result = relabel(text.encode(), 'no"de\n')
        found = parse_text(served(result))
        assert series(found) == series(expected, daemon='no"de\n')
        assert not result.dropped
        declared = {family.name: family.type for family in expected if family.samples and family.type != "unknown"}
        assert declared.items() <= types(found).items()


@given(exposition_text())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_both_paths_write_the_same(text: str) -> None:
    written = []
    for small_block in (1, 1000):
        with patch.object(relabel_module, "_SMALL_BLOCK", small_block):
            result = relabel(text.encode(), "d")
        written.append((served(result), served_openmetrics(result)))
    assert written[0] == written[1]


exemplar = st.tuples(label_sets, st.floats(0, 100).map(repr), st.none() | st.floats(1, 2e9).map(lambda t: f"{t:.3f}"))


@given(
    st.lists(st.tuples(label_sets, st.integers(0, 10**9), timestamp, st.none() | exemplar), max_size=6),
    st.sampled_from(["counter", "gauge", "untyped"]),
)
@settings(max_examples=80, deadline=None)
def test_exemplars_and_timestamps_are_kept_where_a_format_has_them(
    rows: list[tuple[dict[str, str], int, int | None, tuple[dict[str, str], str, str | None] | None]], kind: str
) -> None:
    assume(len({frozenset(pairs.items()) for pairs, *_ in rows}) == len(rows))
    name = "a_total" if kind == "counter" else "a"
    given_text, without, openmetrics = [f"# TYPE {name} {kind}"], [f"# TYPE {name} {kind}"], []
    for pairs, count, milliseconds, example_ in rows:
        head = f"{plainly(name, pairs)} {count}"
        plain = head if milliseconds is None else f"{head} {milliseconds}"
        tail = ""
        if example_ is not None and len("".join(f"{k}{v}" for k, v in example_[0].items())) < 128:
            tail = f" # {plainly('', example_[0]) or '{}'} {example_[1]}" + (f" {example_[2]}" if example_[2] else "")
        given_text.append(plain + tail)
        without.append(plain)
        openmetrics.append((milliseconds, tail if kind == "counter" else ""))
    result = relabel("\n".join(given_text).encode(), "d")
    assert not result.dropped
    assert series(parse_text(served(result))) == series(parse_text("\n".join(without)), daemon="d")
    lines = [line for line in served_openmetrics(result).split("\n")[:-1] if line[0] != "#"]
    for line, (milliseconds, tail) in zip(lines, openmetrics, strict=True):
        assert line.endswith(tail)
        if milliseconds is not None:
            stamp = line.removesuffix(tail).rsplit(" ", 1)[1]
            assert float(stamp) == milliseconds / 1000
            assert len(stamp.rsplit(".", maxsplit=1)[-1]) == 3


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(max_examples=300, deadline=None)
def test_no_bytes_raise_and_what_is_served_can_be_read(text: bytes) -> None:
    parse_text(served(relabel(text, "d")))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_text_costs_its_damaged_lines_only(golden_metrics: bytes, data: st.DataObject) -> None:
    lines = golden_metrics[:3000].rsplit(b"\n", 1)[0].split(b"\n")
    victim = data.draw(st.sampled_from([index for index, line in enumerate(lines) if line[:1] != b"#"]))
    damaged = bytearray(lines[victim])
    at = data.draw(st.integers(0, len(damaged)))
    damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3).filter(lambda b: b"\n" not in b))
    rest = b"\n".join(lines[:victim] + lines[victim + 1 :])
    result = relabel(b"\n".join([*lines[:victim], bytes(damaged), *lines[victim + 1 :]]), "d")
    found = series(parse_text(served(result)))
    whole = series(parse_text(rest.decode()), daemon="d")
    assert whole <= found
    assert (found - whole).total() + result.dropped[MALFORMED] <= 1


# --- cases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"a",
        b"a{} ",
        b"1a 1",
        b"a{b=1} 1",
        b'a{b="1} 1',
        b'a{b="1"} x',
        b'a{b="1"} 1 2 3',
        b'a{b="1"} 1_000',
        b'a{b="1"} 0x10',
        b'a{b="1"} 1 1.5',
        b'a{b="1" c="2"} 1',
        b'a{b="1",b="2"} 1',
        b'a{__name__="b"} 1',
        b'{"a.b",c="1"} 1',
        b'a{b="\xff"} 1',
        b'a{b="\x00"} 1',
        b"a +nan",
        b"a 1e999",
        b"a -1e999",
        b"a " + b"9" * 400,
        b'a{b="1"} 1e309',
        b"a 1 9223372036854775808",
        b"a 1 " + b"9" * 5000,
        b'a{__address__="x"} 1',
        b"a " + b"1" * 5000,
        b"# TYPE a nonsense",
        b"# TYPE a",
        b"# HELP 1a text",
    ],
)
def test_a_malformed_line_is_dropped_and_counted(line: bytes) -> None:
    result = relabel(b"before 1\n%b\nafter 2\n" % line, "d")
    assert served(result).count("\n") == 4  # two families, each with its TYPE
    assert result.dropped == {MALFORMED: 1}


@pytest.mark.parametrize("value", [b"seventy-seven", b"1e999", b"-2e308", b"9" * 400, b"1_0"])
def test_a_bad_line_in_a_large_block_costs_itself_only(value: bytes) -> None:
    lines = [b'a{b="%d"} %d' % (index, index) for index in range(200)]
    lines[77] = b'a{b="77"} ' + value
    result = relabel(b"# TYPE a gauge\n" + b"\n".join(lines), "d")
    assert sum(family.series for family in result.families) == 199
    assert result.dropped == {MALFORMED: 1}


@pytest.mark.parametrize(
    ("given_labels", "expected"),
    [
        ('daemon="x"', 'exported_daemon="x"'),
        ('a="1",daemon="x"', 'a="1",exported_daemon="x"'),
        ('daemon="x",exported_daemon="y"', 'exported_exported_daemon="x",exported_daemon="y"'),
        (r'a="daemon=\"x\""', r'a="daemon=\"x\""'),
        ('xdaemon="x"', 'xdaemon="x"'),
    ],
)
@pytest.mark.parametrize("count", [1, 50])
def test_a_label_named_daemon_becomes_exported_daemon(given_labels: str, expected: str, count: int) -> None:
    result = relabel("\n".join(f"a{{{given_labels}}} {n}" for n in range(count)).encode(), "d")
    lines = served(result).splitlines()[1:]
    assert lines == [f'a{{daemon="d",{expected}}} {n}' for n in range(count)]


def test_an_unknown_escape_stands_for_itself_in_every_reader() -> None:
    result = relabel(rb'a{b="C:\dir"} 1', "d")
    assert served(result).splitlines()[1] == r'a{daemon="d",b="C:\\dir"} 1'


@pytest.mark.parametrize(
    "name",
    [
        "meshbridge_daemon_up",
        "appmesh_app_info",
        "appmesh_host_load1",
        "process_open_fds",
        "up",
        "scrape_duration_seconds",
        "ALERTS",
        "__name__",
        "__x",
    ],
)
def test_a_family_of_ours_is_not_a_daemons_to_give(name: str) -> None:
    text = f"# TYPE {name} gauge\n{name} 1\n{name} 2\n# TYPE appmesh_application_enabled gauge\n"
    text += "appmesh_application_enabled 1\n"
    result = relabel(text.encode(), "d", reserved=frozenset({"process_open_fds"}))
    assert [family.name for family in result.families] == ["appmesh_application_enabled"]
    assert result.dropped == {CLASH: 2}


@pytest.mark.parametrize("limit", [1, 50, 99, 100, 101])
def test_a_runaway_daemon_is_cut_at_max_series_and_the_rest_counted(limit: int) -> None:
    text = b"".join(b'a{b="%d"} 1\n' % index for index in range(60))
    text += b"# TYPE c gauge\n" + b"".join(b'c{b="%d"} 1\n' % index for index in range(40))
    result = relabel(text, "d", max_series=limit)
    kept = min(limit, 100)
    assert sum(family.series for family in result.families) == kept
    assert served(result).count('daemon="d"') == kept
    assert result.dropped[LIMIT] == 100 - kept


def test_scattered_lines_of_a_family_come_together() -> None:
    text = b'# TYPE a gauge\na 1\n# TYPE b histogram\nb_sum 1\na{x="1"} 2\nb_count 1\nb_other 5\n'
    assert served(relabel(text, "d")).splitlines() == [
        "# TYPE a gauge",
        'a{daemon="d"} 1',
        'a{daemon="d",x="1"} 2',
        "# TYPE b histogram",
        'b_sum{daemon="d"} 1',
        'b_count{daemon="d"} 1',
        "# TYPE b_other untyped",
        'b_other{daemon="d"} 5',
    ]


def test_type_after_its_samples_still_counts_but_never_moves_them() -> None:
    assert served(relabel(b"a 1\n# TYPE a gauge\na 2\n", "d")).splitlines()[0] == "# TYPE a gauge"
    kept = served(relabel(b"a 1\n# TYPE a histogram\na_sum 2\n", "d"))
    assert "# TYPE a untyped" in kept
    assert "# TYPE a_sum untyped" in kept


def test_sample_of_an_earlier_family_can_not_be_declared_again() -> None:
    result = relabel(b"# TYPE a histogram\na_sum 1\n# TYPE a_sum gauge\na_sum 2\n", "d")
    assert [family.name for family in result.families] == ["a"]
    assert result.dropped == {MALFORMED: 1}


def test_a_text_of_ever_new_shapes_is_read_line_by_line_after_a_while() -> None:
    names = [f"f{number}" for number in range(600)]
    text = "\n".join(f"# TYPE {name} gauge\n" + "\n".join(f'{name}{{a="{n}"}} 1' for n in range(6)) for name in names)
    with patch.object(relabel_module, "_compiled", wraps=relabel_module._compiled) as compiled:
        for _ in range(10):
            assert len(relabel(text.encode(), "d").families) == 600
    assert compiled.call_count <= 640
    assert len(relabel_module._patterns) <= 512


# --- speed ---------------------------------------------------------------------------------------------------------


def test_ten_times_faster_than_parsing_and_generating(golden_metrics: bytes) -> None:
    text = b"".join(
        b"# TYPE appmesh_application_%b gauge\n" % name
        + b"".join(
            b'appmesh_application_%b{application="app-%d",host="node-a"} %d\n' % (name, n, n) for n in range(2000)
        )
        for name in (b"process_id", b"enabled", b"running", b"healthy")
    ) + golden_metrics.replace(b"appmesh_", b"other_")

    class Naive(Collector):
        def collect(self) -> Iterable[Metric]:
            for metric in parse_text(text.decode()):
                metric.samples = [sample._replace(labels=sample.labels | {"daemon": "d"}) for sample in metric.samples]
                yield metric

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Naive())
    started = time.thread_time()
    naive = generate_latest(registry)
    slow = time.thread_time() - started
    fast = []
    for _ in range(3):
        started = time.thread_time()
        quick = served(relabel(text, "d"))
        fast.append(time.thread_time() - started)
    assert series(parse_text(quick)) == series(parse_text(naive.decode()))
    assert slow / min(fast) >= 10
