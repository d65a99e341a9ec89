"""The overview and the delivery view in a real browser: what is wrong, figures as plots, and what is done about it."""

import json
import re
from pathlib import Path

import pytest

from tests.e2e.chromium import Page
from tests.e2e.figures import filled_ring
from tests.e2e.stage import Stage
from tests.e2e.watched import Watched, assert_fit_for_all, go
from tests.support import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.needs("chromium")]


def drawn(page: Page) -> int:
    """How many plots have lines: pixels with a colour, which axes and grid have not."""
    return int(
        page.evaluate(
            """[...document.querySelectorAll("canvas")].filter(canvas => {
                const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                let coloured = 0;
                for (let at = 0; at < data.length; at += 4) {
                    const pixel = data.subarray(at, at + 3);
                    if (Math.max(...pixel) - Math.min(...pixel) > 70) coloured += 1;
                }
                return coloured > 50;
            }).length"""
        )
    )


def open_tables(page: Page) -> None:
    page.evaluate("document.querySelectorAll('main details').forEach(one => { one.open = true; })")


def test_a_bridge_in_trouble_says_what_is_wrong_and_where_to_look(tmp_path: Path, visit: Watched) -> None:
    with Stage(tmp_path) as stage:
        stage.refused_letter()
        stage.hook.status = 503
        stage.emulator.emit("talker", "EXIT", {"pid": 1, "exit_code": 7, "last_error": ""})
        page = visit(stage)
        page.wait_text("critical daemon node-b since", ".wrong")
        page.wait_text("critical sink hook since", ".wrong")
        page.wait_text("answers 503", ".wrong")
        page.wait_text("The destination refused 1 event for good.", ".wrong")
        page.wait_text("Run meshbridge check: it tries the address", ".wrong")
        assert page.evaluate("document.querySelector('main section h2').textContent") == "What is wrong"
        page.wait_text("warning app crasher on node-a", ".wrong")
        page.wait_text("restarts after a failure within the last hour", ".wrong")
        grades = page.evaluate("[...document.querySelectorAll('.wrong .badge')].map(one => one.dataset.grade)")
        assert grades == ["bad", "bad", "warn", "warn"]  # the worst first
        assert_fit_for_all(page)
        page.click("Show daemon node-b")
        wait_for(lambda: page.evaluate("document.activeElement.dataset.name") == "node-b", "the daemon's card")
        go(page, "overview")
        page.click("Show app crasher on node-a")
        page.wait_text("node-a / crasher", "h1")
        go(page, "overview")
        page.click("Show sink hook")
        page.wait_text("Delivery", "h1")
        wait_for(lambda: page.evaluate("document.activeElement.dataset.name") == "hook", "the sink's card")
        stage.hook.status = 204
        page.click("Overview")
        page.wait_no_text("answers 503", ".wrong")


def test_a_bridge_that_is_well_says_so(tmp_path: Path, visit: Watched) -> None:
    with Stage(tmp_path, well=True) as stage:
        page = visit(stage)
        page.wait_text("✓ Nothing is wrong.")
        assert_fit_for_all(page)


def test_figures_are_plots_with_a_table_behind_each(stage: Stage, visit: Watched) -> None:
    stage.service.observer.ring = filled_ring(["node-a", "node-b"], ["log", "hook"])
    page = visit(stage)
    wait_for(lambda: drawn(page) == 5, "five plots")
    page.wait_text("node-a", ".legend")
    label = page.evaluate("document.querySelector('.plot').ariaLabel")
    assert label.startswith("Events received, by daemon, ")
    assert "node-a now " in label
    open_tables(page)
    page.wait_text("Time node-a node-b", "figure table")
    assert 50 <= page.evaluate("document.querySelectorAll('figure table')[0].rows.length") <= 61
    assert_fit_for_all(page)
    page.click("Last day")
    wait_for(
        lambda: page.evaluate("document.querySelectorAll('figure table')[0].rows.length") in range(48, 62), "a day"
    )
    first = "[...document.querySelectorAll('figure table')[0].rows].at(-1).cells[0].textContent"
    wait_for(lambda: len(page.evaluate(first)) > len("00:00:00"), "yesterday's date")
    assert page.evaluate("document.querySelector('[data-range=\"1d\"]').ariaPressed") == "true"
    page.look(1440, 900, dark=True)
    wait_for(lambda: drawn(page) == 5, "the plots in the colours of the dark")


def test_the_keyboard_moves_the_cursor_of_a_plot(stage: Stage, visit: Watched) -> None:
    stage.service.observer.ring = filled_ring(["node-a", "node-b"], ["log", "hook"])
    page = visit(stage)
    wait_for(lambda: drawn(page) == 5, "five plots")
    page.evaluate("document.querySelector('.plot').focus()")
    moment = "document.querySelector('.moment').textContent"
    last = page.evaluate(moment)
    page.press("Home")
    wait_for(lambda: page.evaluate(moment) != last, "the first moment")
    first = page.evaluate(moment)
    page.press("ArrowRight")
    wait_for(lambda: page.evaluate(moment) not in {first, last}, "the second moment")
    page.press("ArrowLeft")
    wait_for(lambda: page.evaluate(moment) == first, "the first again")
    page.press("End")
    wait_for(lambda: page.evaluate(moment) == last, "the last")


def test_what_an_app_uses_is_drawn_while_its_page_is_open(stage: Stage, visit: Watched) -> None:
    page = visit(stage)
    page.wait_text("node-a ✓ up")
    go(page, "apps/node-a/talker")
    page.wait_text("Usage since this page was opened")
    wait_for(lambda: page.evaluate("document.querySelectorAll('.plot canvas').length") == 2, "two plots")
    wait_for(
        lambda: re.search(r"now \d", page.evaluate("document.querySelectorAll('.plot')[1].ariaLabel")), "the memory"
    )
    assert_fit_for_all(page)


def test_uplot_is_loaded_by_views_with_plots_alone(stage: Stage, visit: Watched) -> None:
    page = visit(stage, f"{stage.root}#token={stage.tokens['read']}")
    wait_for(lambda: any("uPlot" in url for url in page.requests), "uPlot")
    other = visit(stage, stage.root)
    other.evaluate(f"sessionStorage.setItem('meshbridge.token', {json.dumps(stage.tokens['read'])})")
    other.evaluate("location.hash = 'dead-letters'")
    other.evaluate("location.reload()")
    other.wait_text("Dead letters", "h1")
    other.wait_text("Events that a sink")
    assert not [url for url in other.requests if "uPlot" in url]


def test_more_daemons_than_a_plot_can_show_leave_the_largest(stage: Stage, visit: Watched) -> None:
    names = [f"node-{number}" for number in range(12)]
    stage.service.observer.ring = filled_ring(names, ["log"])
    page = visit(stage)
    page.wait_text("The 8 largest of 12.", "figure")
    legend = "[...document.querySelector('.legend').children].map(one => one.textContent.split(' ')[0])"
    wait_for(lambda: page.evaluate(legend) == names[4:], "the legend")
    assert_fit_for_all(page)


def test_a_sinks_errors_are_listed_with_their_times(tmp_path: Path, visit: Watched) -> None:
    with Stage(tmp_path) as stage:
        stage.refused_letter()
        stage.hook.status = 503
        page = visit(stage)
        page.click("Delivery")
        page.wait_text("answers 503 (first", "[data-name=hook] table")
        page.wait_text("answers 400", "[data-name=hook] table")
        open_tables(page)
        assert_fit_for_all(page)


def test_kept_events_are_replayed_with_progress(tmp_path: Path, visit: Watched) -> None:
    with Stage(tmp_path) as stage:
        wait_for(lambda: len(stage.hook.bodies) > 5, "some events")
        page = visit(stage)
        page.click("Delivery")
        page.wait_text("✓ up", "[data-name=hook]")
        open_tables(page)
        page.choose("#replay-event-hook", "stdout")
        page.choose("#replay-apps-hook", "talk*")
        before = len(stage.hook.bodies)
        page.click("Replay", "[data-name=hook] button")
        page.wait_text("beside new ones and marked as replayed", "dialog")
        assert_fit_for_all(page)
        page.click("Replay", "dialog button")
        page.wait_text("Started: ", "[data-name=hook]")
        page.wait_text("Replay hook-1 done", ".replays")
        replayed = [body for body in stage.hook.bodies[before:] if b"shipped" in body]
        assert replayed
        (status,) = stage.service.parts.couriers[0].replays() or stage.service.parts.couriers[1].replays()
        assert 0 < status.sent < status.total  # only what was chosen
        assert_fit_for_all(page)


def test_a_replay_under_way_is_cancelled(tmp_path: Path, visit: Watched) -> None:
    with Stage(tmp_path) as stage:
        wait_for(lambda: len(stage.hook.bodies) > 5, "some events")
        stage.hook.status = 503
        page = visit(stage)
        page.click("Delivery")
        page.wait_text("✕ failing", "[data-name=hook]")
        open_tables(page)
        page.click("Replay", "[data-name=hook] button")
        page.click("Replay", "dialog button")
        page.click("Cancel replay hook-1")
        stage.hook.status = 204
        page.wait_text("Replay hook-1 cancelled", ".replays")


def test_a_dead_letter_shows_the_message_that_would_be_sent(tmp_path: Path, visit: Watched) -> None:
    with Stage(tmp_path) as stage:
        stage.refused_letter()
        page = visit(stage)
        go(page, "dead-letters?sink=hook")
        page.wait_text("answers 400", "table")
        page.click("Message", "tbody button")
        page.wait_text("Message to hook", "dialog")
        page.wait_text("POST http://127.0.0.1", "dialog")
        page.wait_text("io.appmesh.app.", "dialog pre")
        body = json.loads(page.text("dialog pre"))
        assert (body["specversion"], body["type"][:15]) == ("1.0", "io.appmesh.app.")
        assert_fit_for_all(page)
        page.press("Escape")
        wait_for(lambda: page.evaluate("document.querySelector('dialog') === null"), "no dialog")
