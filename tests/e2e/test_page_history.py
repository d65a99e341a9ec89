"""The status page's past in a real browser: lanes, runs, kept events, and what an app's page can do."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from meshbridge.model.events import gap
from tests.e2e.chromium import Page
from tests.e2e.stage import Stage
from tests.e2e.watched import Watched, assert_fit_for_all, go
from tests.support import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.needs("chromium")]

NAMED = "document.querySelector('[role=slider][aria-label=\"{}\"]')"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("stage")) as running:
        crashed = ("node-a", "crasher")
        wait_for(lambda: running.service.journal.history.restarts(0).get(crashed, 0) >= 4, "a crash loop")
        yield running


def opened(page: Page, stage: Stage, view: str) -> None:
    page.wait_text("node-a ✓ up")
    go(page, view)


def texts(page: Page, selector: str) -> list[str]:
    found = page.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map(one => one.textContent)")
    assert isinstance(found, list)
    return found


# --- lanes ----------------------------------------------------------------------------------------------------------


def test_each_app_has_a_lane_and_a_crash_loop_stands_out(stage: Stage, visit: Watched) -> None:
    page = visit(stage)
    opened(page, stage, "history")
    page.wait_text("5 apps,")
    page.wait_text("node-a/crasher:", "ul.problems")
    page.wait_text("restarts in the last hour", "ul.lanes")
    assert texts(page, "ul.lanes .name a") == ["ailing", "crasher", "greeter", "painter", "talker"]
    assert_fit_for_all(page)
    page.click("Last hour")
    wait_for(lambda: texts(page, "button[aria-pressed=true]") == ["Last hour"], "the hour")
    page.click("Last week")
    wait_for(lambda: texts(page, "button[aria-pressed=true]") == ["Last week"], "the week")
    page.choose("#app", "t*")
    page.wait_text("1 app,")
    assert texts(page, "ul.lanes .name a") == ["talker"]


def test_a_bar_tells_of_its_process_by_the_keyboard(stage: Stage, visit: Watched) -> None:
    page = visit(stage)
    opened(page, stage, "history?range=1h&app=crasher")
    page.wait_text("1 app,")
    lane = NAMED.format("crasher at node-a")
    page.evaluate(f"{lane}.focus()")
    page.press("End")
    newest = page.evaluate(f"{lane}.ariaValueNow")
    assert page.evaluate(f"{lane}.ariaValueMax") == newest
    page.press("ArrowLeft")
    assert int(page.evaluate(f"{lane}.ariaValueNow")) == int(newest) - 1
    assert any(state in page.evaluate(f"{lane}.ariaValueText") for state in ("running", "stopped", "unknown"))
    while "exit code 3" not in page.evaluate(f"{lane}.ariaValueText"):
        assert page.evaluate(f"{lane}.ariaValueNow") != "1", "no bar with an exit"
        page.press("ArrowLeft")
    page.press("Enter")
    page.wait_text("Exit code 3", ".opened dl")
    page.wait_text("in the hour up to its start", ".opened dl")
    page.wait_text("working", ".opened pre")
    assert_fit_for_all(page)
    page.click("Close: crasher")
    assert page.evaluate(f"document.activeElement === {lane}")


def test_a_click_opens_the_bar_under_it(stage: Stage, visit: Watched) -> None:
    page = visit(stage)
    opened(page, stage, "history?range=1h&app=talker")
    page.wait_text("1 app,")
    page.evaluate(
        f"""(lane => {{
            const box = lane.getBoundingClientRect();
            const place = {{clientX: box.right - 1, clientY: box.top + 5, bubbles: true}};
            lane.dispatchEvent(new MouseEvent("click", place));
        }})({NAMED.format("talker at node-a")})"""
    )
    page.wait_text("still runs", ".opened dl")
    page.wait_text("shipped", ".opened pre")
    page.click("Events of that time")
    page.wait_text("Events", "h1")
    assert page.evaluate("document.querySelector('#app').value") == "talker"


def test_gaps_are_marked_and_the_picture_has_a_table(stage: Stage, visit: Watched) -> None:
    now = stage.service.journal.read(0, 1)[0].event.received_at
    stage.service.journal.append([gap("node-a", "1", 5, 9, now + 1, reconciled=0)])
    page = visit(stage)
    opened(page, stage, "history?range=1h")
    page.wait_text("1 gap in the events")
    assert page.evaluate("document.querySelectorAll('rect.gap').length") == 5
    page.click("As a table", "summary")
    page.wait_text("node-a/crasher", "table")
    assert texts(page, "thead th")[:2] == ["App", "State"]
    assert_fit_for_all(page)


# --- an app's page --------------------------------------------------------------------------------------------------


def test_an_apps_page_has_its_last_runs_with_what_they_wrote(stage: Stage, visit: Watched) -> None:
    page = visit(stage)
    opened(page, stage, "apps/node-a/crasher")
    page.wait_text("restarts in the last hour", ".past")
    wait_for(lambda: "3" in texts(page, "table.runs tbody td:nth-child(4)"), "a run with its exit code")
    page.evaluate(
        """[...document.querySelectorAll("table.runs tbody tr")]
            .find(row => row.cells[3].textContent === "3").querySelector("button").click()"""
    )
    page.wait_text("working", ".output-row pre")
    page.wait_text("hook: start, exit, stdout", ".sinks")
    page.wait_text("log: start, exit, stdout", ".sinks")
    assert len(texts(page, "table.runs tbody tr:not(.output-row)")) <= 10
    assert_fit_for_all(page)


def test_an_app_is_restarted(stage: Stage, visit: Watched) -> None:
    page = visit(stage)
    opened(page, stage, "apps/node-a/painter")
    page.wait_text("✓ running", "h1")
    before = stage.client.get_app("painter").pid
    page.click("Restart")
    page.wait_text("it is started again", "dialog")
    assert_fit_for_all(page)
    page.click("Restart", "dialog button")
    page.wait_text("Restarted.")
    wait_for(lambda: stage.client.get_app("painter").pid not in {None, before}, "another process")


# --- kept events ----------------------------------------------------------------------------------------------------


def exits(stage: Stage, app: str, count: int) -> None:
    last = stage.service.journal.extent[1]
    stage.emulator.emit_many(
        [(app, "EXIT", {"pid": 1, "exit_code": 1, "last_error": f"number {number:03}"}) for number in range(count)]
    )
    wait_for(lambda: stage.service.journal.extent[1] >= last + count, "the events in the journal")


def test_events_begin_with_kept_ones_and_go_back_by_pages(stage: Stage, visit: Watched) -> None:
    exits(stage, "paged", 250)
    page = visit(stage)
    opened(page, stage, "events?app=paged")
    page.wait_text("number 249", "ol")
    assert len(texts(page, "ol li")) == 100
    page.click("Older")
    page.wait_text("number 050", "ol")
    page.click("Older")
    page.wait_text("number 000", "ol")
    said = texts(page, "ol .said")
    assert [text[-3:] for text in said] == [f"{number:03}" for number in reversed(range(250))]
    wait_for(lambda: "Older" not in page.text(), "the end")
    stage.emulator.emit("paged", "EXIT", {"pid": 1, "exit_code": 1, "last_error": "live"})
    page.wait_text("live", "ol")
    assert_fit_for_all(page)


def test_events_are_found_by_text_and_time(stage: Stage, visit: Watched) -> None:
    exits(stage, "sought", 30)
    page = visit(stage)
    opened(page, stage, "events?app=sought")
    page.wait_text("number 029", "ol")
    page.choose("#text", "NUMBER 017")
    page.wait_no_text("number 029", "ol")
    page.wait_text("number 017", "ol")
    assert len(texts(page, "ol li")) == 1
    page.choose("#until", "2001-01-01T00:00:00")
    page.wait_no_text("number 017", "ol")
    page.wait_text("clear Until to go on live")
    page.choose("#until", "")
    page.wait_text("number 017", "ol")


def test_an_event_has_a_link_of_its_own(stage: Stage, visit: Watched) -> None:
    exits(stage, "linked", 1)
    page = visit(stage)
    opened(page, stage, "events?app=linked")
    page.wait_text("number 000", "ol")
    page.evaluate("document.querySelector('ol li a').click()")
    page.wait_text('"last_error": "number 000"', "pre")
    page.wait_text("exit, at offset")
    assert_fit_for_all(page)
    address = page.evaluate("location.hash")
    page.evaluate("location.reload()")
    page.wait_text('"last_error": "number 000"', "pre")
    go(page, address.replace("linked", "linked").replace("id=", "id=x"))
    page.wait_text("the journal keeps no event")


def test_events_are_downloaded(stage: Stage, visit: Watched) -> None:
    exits(stage, "saved", 3)
    page = visit(stage)
    opened(page, stage, "events?app=saved")
    page.wait_text("number 002", "ol")
    page.evaluate(
        """window.saved = new Promise(done => {
            const make = URL.createObjectURL;
            URL.createObjectURL = blob => (blob.text().then(done), make.call(URL, blob));
        }); 0"""
    )
    page.click("Download")
    page.wait_text("Downloaded.")
    lines: list[dict[str, Any]] = [json.loads(line) for line in str(page.evaluate("saved")).splitlines()]
    assert [line["data"]["last_error"] for line in lines] == ["number 000", "number 001", "number 002"]
