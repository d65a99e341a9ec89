"""What is wrong: each kind of problem, from the statuses of the parts alone."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from meshbridge.cli import app
from meshbridge.model.problems import BridgeProblemKind as Kind
from meshbridge.model.problems import CrashLoop, Observation, Severity, problems_of
from meshbridge.model.status import (
    Grade,
    JournalStatus,
    LinkState,
    LinkStatus,
    Loss,
    SinkState,
    SinkStatus,
    Verdict,
)
from tests.docs.pages import PAGES

NOW = 1_795_600_000.0
LINK = LinkStatus("node-a", LinkState.UP, "tcp://127.0.0.1:6059", connects=1, token_expires_at=NOW + 3600)
SINK = SinkStatus("hook", SinkState.UP, delivered=5)
JOURNAL = JournalStatus("/var/lib/meshbridge", open=True, bytes=100, max_bytes=1000)
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
WELL = Observation([LINK], [SINK], JOURNAL)

BAD: dict[Kind, Observation] = {
    Kind.DAEMON_DOWN: replace(
        WELL, links=[replace(LINK, state=LinkState.WAITING, down_since=NOW - 9, last_error="Connection refused")]
    ),
    Kind.PERMISSION_MISSING: replace(WELL, links=[replace(LINK, missing_permissions=("app-view-all",))]),
    Kind.TOKEN_EXPIRING: replace(WELL, links=[replace(LINK, token_renewed=False)]),
    Kind.EVENTS_MISSED: replace(WELL, links=[replace(LINK, events_missed=3, last_missed_at=NOW - 10)]),
    Kind.CRASH_LOOP: replace(WELL, crash_loops=[CrashLoop("node-a", "web/1?", 12)]),
    Kind.SINK_FAILING: replace(WELL, sinks=[replace(SINK, state=SinkState.WAITING, failing_since=NOW - 5)]),
    Kind.SINK_GONE: replace(WELL, sinks=[replace(SINK, state=SinkState.GONE, failing_since=NOW - 5)]),
    Kind.SINK_STOPPED: replace(WELL, sinks=[replace(SINK, state=SinkState.STOPPED)]),
    Kind.SINK_PAUSED: replace(WELL, sinks=[replace(SINK, state=SinkState.PAUSED, paused_since=NOW - 5)]),
    Kind.SINK_LAGGING: replace(WELL, sinks=[replace(SINK, lag_events=7, lag_seconds=301)]),
    Kind.DEAD_LETTERS: replace(WELL, sinks=[replace(SINK, dead_letters=2)], oldest_letters={"hook": NOW - 50}),
    Kind.EVENTS_DROPPED: replace(WELL, losses=[Loss("hook", "size", 40, NOW - 60)]),
    Kind.JOURNAL_FAILING: replace(WELL, journal=replace(JOURNAL, last_error="disk full", failing_since=NOW - 8)),
    Kind.JOURNAL_FILLING: replace(
        WELL, journal=replace(JOURNAL, bytes=850), sinks=[replace(SINK, state=SinkState.PAUSED, lag_seconds=301)]
    ),
    Kind.RELOAD_REFUSED: replace(WELL, reload_error="sinks.x: unknown type", reload_failed_at=NOW - 4),
    Kind.CERTIFICATE_EXPIRING: replace(
        WELL, certificates=[Verdict("admin", "certificate", Grade.WARNING, "certificate good until …", "renew it")]
    ),
    Kind.THREAD_MISSING: replace(WELL, missing_threads=["courier-hook"]),
}


def test_a_bridge_that_is_well_has_none() -> None:
    assert problems_of(WELL, NOW) == []


def test_a_bridge_that_starts_has_none() -> None:
    starting = replace(LINK, state=LinkState.CONNECTING, connects=0, token_expires_at=None)
    assert problems_of(replace(WELL, links=[starting], sinks=[replace(SINK, state=SinkState.CONNECTING)]), NOW) == []


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_is_found_and_says_what_to_do(kind: Kind) -> None:
    found = {problem.kind: problem for problem in problems_of(BAD[kind], NOW)}
    assert set(found) == {kind} | ({Kind.SINK_PAUSED} if kind is Kind.JOURNAL_FILLING else set())
    problem = found[kind]
    assert re.fullmatch(r"[A-Z0-9][^\n]+(\.|: [^\n]+)", problem.text)
    assert re.fullmatch(r"[A-Z0-9][^\n]+\.", problem.remedy)
    for call in re.findall(r"`meshbridge (\w+)", problem.remedy):
        assert call in COMMANDS
    page, _, anchor = problem.runbook.partition("#")
    (found_page,) = [one for one in PAGES if one.name == page]
    assert anchor in found_page.anchors


@pytest.mark.parametrize(
    ("kind", "since"),
    [
        (Kind.DAEMON_DOWN, 9), (Kind.EVENTS_MISSED, 10), (Kind.SINK_FAILING, 5), (Kind.SINK_PAUSED, 5),
        (Kind.DEAD_LETTERS, 50), (Kind.EVENTS_DROPPED, 60), (Kind.JOURNAL_FAILING, 8), (Kind.RELOAD_REFUSED, 4),
    ],
)  # fmt: skip
def test_it_says_since_when(kind: Kind, since: float) -> None:
    assert problems_of(BAD[kind], NOW)[0].since == NOW - since


def test_what_happened_more_than_an_hour_ago_is_no_problem_now() -> None:
    past = replace(
        WELL,
        links=[replace(LINK, events_missed=3, last_missed_at=NOW - 3601)],
        losses=[Loss("hook", "size", 40, NOW - 3601)],
    )
    assert problems_of(past, NOW) == []


@pytest.mark.parametrize(
    ("left", "renewed", "error", "severity"),
    [
        (60, True, None, None),  # of a short life, and renewed in time
        (86_500, False, None, None),
        (80_000, False, None, Severity.WARNING),
        (800, False, None, Severity.CRITICAL),
        (-5, False, None, Severity.CRITICAL),
        (80_000, True, "login refused", Severity.WARNING),
        (800, True, "login refused", Severity.CRITICAL),
    ],
)
def test_a_token_is_a_problem_only_where_its_end_is_near_and_nothing_replaces_it(
    left: float, renewed: bool, error: str | None, severity: Severity | None
) -> None:
    link = replace(LINK, token_expires_at=NOW + left, token_renewed=renewed, token_error=error)
    assert [problem.severity for problem in problems_of(replace(WELL, links=[link]), NOW)] == (
        [severity] if severity else []
    )


def test_a_full_journal_is_a_problem_only_while_a_sink_needs_it() -> None:
    full = replace(JOURNAL, bytes=990)
    assert problems_of(replace(WELL, journal=full), NOW) == []
    behind = replace(WELL, journal=full, sinks=[replace(SINK, lag_events=3, lag_seconds=400)])
    assert [(one.kind, one.severity) for one in problems_of(behind, NOW)] == [
        (Kind.JOURNAL_FILLING, Severity.CRITICAL),
        (Kind.SINK_LAGGING, Severity.WARNING),
    ]


def test_a_sink_that_flaps_is_failing_though_it_is_up_between() -> None:
    flapping = replace(SINK, failing_since=NOW - 100, last_error="connection reset")
    (problem,) = problems_of(replace(WELL, sinks=[flapping]), NOW)
    assert (problem.kind, problem.since) == (Kind.SINK_FAILING, NOW - 100)
    assert "connection reset" in problem.text


def test_the_worst_come_first_and_the_oldest_of_them() -> None:
    down = [replace(LINK, daemon=name, state=LinkState.WAITING, down_since=NOW - age, last_error="x")
            for name, age in (("late", 10), ("early", 100))]  # fmt: skip
    seen = replace(WELL, links=down, sinks=[replace(SINK, dead_letters=1)])
    assert [one.where for one in problems_of(seen, NOW)] == ["daemon early", "daemon late", "sink hook"]


def test_links_hold_any_name() -> None:
    (problem,) = problems_of(BAD[Kind.CRASH_LOOP], NOW)
    assert problem.link == "apps/node-a/web%2F1%3F"
    assert (problem.daemon, problem.app) == ("node-a", "web/1?")


def test_the_page_has_every_kind() -> None:
    page = (Path(__file__).parents[3] / "docs" / "status-page.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(Kind)


def test_a_sink_that_holds_events_back_by_its_settings_is_no_problem() -> None:
    held = replace(SINK, lag_events=7, lag_seconds=30_000, held=True)
    assert problems_of(replace(WELL, sinks=[held]), NOW) == []
