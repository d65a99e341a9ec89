"""The status page in a real browser, at a bridge that is well and at one that is not."""

import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from meshbridge.appmesh import App
from tests.e2e.chromium import Browser
from tests.e2e.stage import Stage
from tests.e2e.watched import Watched, assert_fit_for_all, go
from tests.support import Process, meshbridge_command, thread, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.needs("chromium")]


# --- what it shows --------------------------------------------------------------------------------------------------


def test_every_view_of_a_bridge_that_is_well(stage: Stage, visit: Watched) -> None:
    stage.refused_letter()
    page = visit(stage)
    page.wait_text("1 of 2 daemons up, 2 of 2 sinks up")
    page.wait_text("node-a ✓ up")
    page.wait_text("node-b ✕ down")
    page.wait_text("Down since")
    page.wait_text("Connection refused")
    page.wait_text("1 unhealthy")
    page.wait_text("1 disabled")
    page.wait_text("✓ writing")
    assert_fit_for_all(page)
    page.click("1 unhealthy")
    page.wait_text("ailing ", "table")
    page.wait_no_text("talker", "table")
    assert_fit_for_all(page)
    page.click("ailing")
    page.wait_text("✕ unhealthy", "h1")
    page.wait_text("sleep 86400")
    assert_fit_for_all(page)
    go(page, "events")
    page.wait_text("node-a/talker")
    page.wait_text("shipped")
    assert_fit_for_all(page)
    page.click("Dead letters")
    page.wait_text("answers 400", "table")
    assert_fit_for_all(page)


def test_every_view_of_a_bridge_that_is_not(tmp_path: Path, visit: Watched) -> None:
    with Stage(tmp_path) as stage:
        page = visit(stage)
        page.wait_text("node-a ✓ up")
        page.wait_text("1 unhealthy")
        stage.refused_letter()
        stage.hook.status = 503
        store: Any = stage.service.journal._writer.store
        store._writer.execute("PRAGMA max_page_count = 1")  # a full disk
        wait_for(lambda: stage.service.journal.status().held_events > 0, "the journal to be full")
        page.wait_text("✕ failing")
        page.wait_text("answers 503")
        page.wait_text("✕ not writing")
        page.wait_text("database or disk is full")
        page.wait_text("that the disk does not take")
        stage.emulator.stop()
        page.wait_text("0 of 2 daemons up, 1 of 2 sinks up")
        page.wait_text("node-a ✕ down")
        page.wait_text("1 unhealthy")  # as they were last known
        assert_fit_for_all(page)
        page.click("Apps")
        page.wait_text("The apps of node-a are of")
        page.wait_text("The apps of node-b are not known")
        page.wait_text("talker", "table")
        assert_fit_for_all(page)
        go(page, "apps/node-a/talker")
        page.wait_text("Output: node-a:")
        assert_fit_for_all(page)
        page.click("Events")
        page.wait_text("0 a second")
        assert_fit_for_all(page)
        page.click("Dead letters")
        page.wait_text("answers 400", "table")
        assert_fit_for_all(page)
        store._writer.execute("PRAGMA max_page_count = 1000000")


def test_a_bridge_that_goes_away_and_comes_back(tmp_path: Path, visit: Watched) -> None:
    with Stage(tmp_path) as stage:
        page = visit(stage)
        page.wait_text("node-a ✓ up")
        page.wait_text("1 unhealthy")
        stage.stop()
        page.wait_text("The bridge has not answered since")
        page.wait_text("What is shown is of")
        page.wait_text("node-a ✓ up")
        assert "not known" not in page.text()
        assert page.evaluate("[...document.querySelectorAll('.card button')].every(one => one.ariaDisabled === 'true')")
        assert_fit_for_all(page)
        stage.start()
        page.wait_no_text("has not answered")
        wait_for(lambda: page.evaluate("document.getElementById('announcer').textContent"), "the announcement")
        page.click("Events")
        page.wait_text("shipped", "ol")
        stage.emulator.emit("marker", "EXIT", {"pid": 1, "exit_code": 1, "last_error": "the last before"})
        page.wait_text("the last before", "ol")
        stage.stop()
        page.wait_text("this goes on from the last event when it is back")
        stage.start()
        stage.emulator.emit("marker", "EXIT", {"pid": 1, "exit_code": 1, "last_error": "the first after"})
        page.wait_text("the first after", "ol")
        said = page.text("ol")
        assert [said.count(text) for text in ("the last before", "the first after")] == [1, 1]


def test_a_daemon_that_gives_no_answer_is_not_taken_for_the_bridge(stage: Stage, visit: Watched) -> None:
    page = visit(stage)
    page.evaluate(
        """window.said = [];
        new MutationObserver(() => said.push(contact.textContent)).observe(contact, {childList: true});
        const asked = fetch;
        fetch = (url, ...rest) => String(url).includes("/daemons/node-b/")
            ? Promise.reject(new DOMException("as AbortSignal.timeout does", "TimeoutError")) : asked(url, ...rest)"""
    )
    page.click("Apps")
    page.wait_text("The apps of node-b are not known: No answer in time")
    page.wait_text("talker", "table")
    assert page.evaluate("said") == []


def test_events_that_came_while_the_bridge_was_away_are_shown_though_there_was_none_before(
    tmp_path: Path, visit: Watched
) -> None:
    with Stage(tmp_path) as stage:
        page = visit(stage)
        page.wait_text("node-a ✓ up")
        go(page, "events?app=marker")
        page.wait_text("Waiting for events …")
        page.evaluate(
            "const asked = fetch; fetch = (...all) => window.cut ? Promise.reject(TypeError()) : asked(...all)"
        )
        page.evaluate("window.cut = true")
        stage.stop()
        stage.start()
        stage.emulator.emit("marker", "EXIT", {"pid": 1, "exit_code": 1, "last_error": "meanwhile"})
        log = tmp_path / "events.jsonl"
        wait_for(lambda: "meanwhile" in log.read_text(encoding="utf-8"), "the event to be delivered")
        page.evaluate("window.cut = false")
        page.wait_text("meanwhile", "ol")


# --- who may see it -------------------------------------------------------------------------------------------------


def test_the_page_asks_for_a_token_and_keeps_it_for_the_tab(stage: Stage, visit: Watched) -> None:
    page = visit(stage, stage.root)
    page.wait_text("A token, please")
    assert_fit_for_all(page)
    assert page.evaluate("document.activeElement.id") == "token"
    page.type("wrong")
    page.press("Enter")
    page.wait_text("this token is not known here")
    assert_fit_for_all(page)
    page.type(stage.tokens["read"])
    page.press("Enter")
    page.wait_text("node-a ✓ up")
    page.evaluate("location.reload()")
    page.wait_text("node-a ✓ up")
    kept = page.evaluate("[Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
    assert kept == [[stage.tokens["read"]], [], ""]
    page.click("Forget token")
    page.wait_text("A token, please")
    assert page.evaluate("sessionStorage.length") == 0


def test_a_token_in_the_fragment_leaves_the_address_at_once(stage: Stage, visit: Watched) -> None:
    page = visit(stage, stage.url())
    page.wait_text("node-a ✓ up")
    assert page.evaluate("location.href") == f"{stage.root}#overview"
    assert not [url for url in page.requests if stage.tokens["operate"] in url.partition("#")[0]]


def test_who_may_only_read_is_offered_nothing_else(stage: Stage, visit: Watched) -> None:
    page = visit(stage, stage.url("read"))
    page.wait_text("node-a ✓ up")
    page.wait_text("hook ✓ up")
    shown = (
        "[...document.querySelectorAll('main button:not([data-range], .past button)')]"
        ".filter(one => one.checkVisibility()).map(one => one.textContent)"
    )
    assert page.evaluate(shown) == []
    go(page, "apps/node-a/talker")
    page.wait_text("✓ running", "h1")
    assert page.evaluate(shown) == []
    go(page, "dead-letters")
    page.wait_text("Dead letters", "h1")
    page.wait_text("here", "main")
    assert not {"Retry", "Drop"} & set(page.evaluate(shown))


def test_what_others_write_is_only_text(stage: Stage, visit: Watched) -> None:
    page = visit(stage)
    page.wait_text("node-a ✓ up")
    go(page, "apps/node-a/painter")
    page.wait_text("<b onclick=alert(1)>red</b>", "pre")
    page.wait_text("<img src=x onerror=alert(1)>", "dl")
    assert page.evaluate("document.querySelectorAll('main b, main img').length") == 0


# --- what it does ---------------------------------------------------------------------------------------------------


def test_a_sink_is_paused_and_resumed(stage: Stage, visit: Watched) -> None:
    page = visit(stage)
    page.wait_text("hook ✓ up")
    page.click("Pause: hook")
    page.wait_text("hook ! paused")
    page.wait_text("Paused.")
    states = {courier.name: courier.status().state for courier in stage.service.parts.couriers}
    assert states == {"hook": "paused", "log": "up"}
    page.click("Resume: hook")
    page.wait_text("hook ✓ up")


def test_an_app_is_disabled_and_enabled(stage: Stage, visit: Watched) -> None:
    page = visit(stage)
    page.wait_text("node-a ✓ up")
    go(page, "apps/node-a/ailing")
    page.click("Disable")
    page.wait_text("Its process at node-a is ended", "dialog")
    assert_fit_for_all(page)
    page.press("Escape")
    wait_for(lambda: page.evaluate("document.querySelector('dialog') === null"), "no dialog")
    assert stage.client.get_app("ailing").status == 1
    page.click("Disable")
    page.click("Disable", "dialog button")
    page.wait_text("disabled", "h1")
    assert stage.client.get_app("ailing").status == 0
    page.click("Enable")
    page.wait_text("Enabled.")
    wait_for(lambda: stage.client.get_app("ailing").status == 1, "the app to be enabled")
    page.wait_text("✕ unhealthy", "h1")


def test_an_app_is_run_once_and_followed_to_its_end(stage: Stage, visit: Watched) -> None:
    page = visit(stage)
    page.wait_text("node-a ✓ up")
    go(page, "apps/node-a/greeter")
    page.click("Run once")
    page.wait_text("hello goodbye", "pre")
    page.wait_text("ended, exit code 4", "h1")
    assert_fit_for_all(page)
    page.click("Back to greeter")
    page.wait_text("disabled", "h1")


def test_a_run_is_followed_over_a_restart_of_the_bridge(tmp_path: Path, visit: Watched) -> None:
    """What it writes is no UTF-8: a text is longer then than the bytes that it stands for."""
    go_on = tmp_path / "go-on"
    with Stage(tmp_path) as stage:
        command = f"printf '\\377\\377\\377begun\\n'; until test -e {go_on}; do sleep 0.1; done; echo ended"
        stage.client.add_app(App({"name": "waiter", "command": command, "shell": True, "status": 0}))
        page = visit(stage)
        page.wait_text("node-a ✓ up")
        go(page, "apps/node-a/waiter")
        page.click("Run once")
        page.wait_text("begun", "pre")
        stage.stop()
        page.wait_text("has broken off")
        stage.start()
        go_on.touch()
        page.wait_text("ended, exit code 0", "h1")
        assert page.text("pre").split() == ["\ufffd\ufffd\ufffdbegun", "ended"]


def test_an_apps_output_is_followed_over_its_restarts(stage: Stage, visit: Watched) -> None:
    page = visit(stage)
    page.wait_text("node-a ✓ up")
    go(page, "apps/node-a/crasher")
    page.wait_text("working — restarted", "pre")
    wait_for(lambda: page.text("pre").count("restarted") >= 2, "another start")
    lines = page.text("pre").splitlines()
    assert {line for line in lines if not line.startswith("—")} == {"working"}
    assert "working\nworking" not in page.text("pre")  # each once
    go(page, "apps/node-a/talker")
    page.wait_text("shipped", "pre")
    wait_for(lambda: len(page.text("pre").splitlines()) >= 3, "some lines")
    said = [int(line.split()[1]) for line in page.text("pre").splitlines()]
    assert said == list(range(1, len(said) + 1))  # each once, from the first


def test_dead_letters_are_offered_again_or_dropped(stage: Stage, visit: Watched) -> None:
    while stage.service.journal.letters.count("hook") < 2:
        stage.refused_letter()
    page = visit(stage)
    page.wait_text("node-a ✓ up")
    page.click("Dead letters")
    page.wait_text("answers 400", "table")
    before = stage.service.journal.letters.count("hook")
    page.evaluate("document.querySelector('tbody input').click()")
    page.click("Retry 1 letter")
    page.wait_text("1 letter to be offered again.")
    wait_for(lambda: stage.service.journal.letters.count("hook") == before - 1, "the letter to be taken")
    page.wait_text(f"{before - 1} dead letter")
    page.evaluate("document.querySelector('thead input').click()")
    page.click(f"Drop {before - 1} letter{'' if before == 2 else 's'}")
    page.click("Drop", "dialog button")
    page.wait_text("There are none.")
    assert stage.service.journal.letters.count("hook") == 0


def test_events_are_filtered_held_and_cleared(stage: Stage, visit: Watched) -> None:
    page = visit(stage)
    page.wait_text("node-a ✓ up")
    page.click("Events")
    page.wait_text("shipped", "ol")
    page.evaluate(
        "[...document.querySelectorAll('input[type=checkbox]')].filter(e => e.value !== 'exit').forEach(e => e.click())"
    )
    page.wait_text("exit code 3", "ol")
    page.wait_no_text("shipped", "ol")
    page.choose("#app", "marker")
    page.wait_no_text("exit code 3", "ol")
    stage.emulator.emit("marker", "EXIT", {"pid": 1, "exit_code": 41, "last_error": ""})
    page.wait_text("exit code 41", "ol")
    page.click("Pause")
    stage.emulator.emit("marker", "EXIT", {"pid": 1, "exit_code": 42, "last_error": ""})
    page.wait_text("2 events seen")
    assert "exit code 42" not in page.text("ol")
    page.click("Pause")
    page.wait_text("exit code 42", "ol")
    assert set(page.evaluate("[...document.querySelectorAll('.kind')].map(one => one.textContent)")) == {"exit"}
    page.click("Clear")
    page.wait_text("0 events seen")


def test_it_is_used_by_the_keyboard_alone(stage: Stage, visit: Watched) -> None:
    def focused() -> str:
        return str(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id"))

    page = visit(stage)
    page.wait_text("hook ✓ up")
    page.press("Tab")
    assert focused() == "Skip to the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
    page.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.press("Tab", shift=True)
    page.press("Tab", shift=True)
    assert focused() == "Dead letters"
    page.press("Enter")
    page.wait_text("Dead letters", "h1")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.evaluate("document.title") == "Dead letters · meshbridge"
    go(page, "overview")
    page.wait_text("hook ✓ up")
    page.evaluate("document.querySelector('[aria-label=\"Pause: hook\"]').focus()")
    page.press(" ")
    page.wait_text("hook ! paused")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Resume: hook"
    page.press(" ")
    page.wait_text("hook ✓ up")


# --- much of it -----------------------------------------------------------------------------------------------------


def test_a_thousand_apps_and_a_thousand_events_a_second(tmp_path: Path, visit: Watched) -> None:
    with Stage(tmp_path) as stage:
        for number in range(1000):
            stage.client.add_app(App({"name": f"app-{number:04}", "command": "true", "status": 0}))
        page = visit(stage)
        page.wait_text("1,001 disabled")
        page.click("1,001 disabled")
        page.wait_text("1,001 apps.")
        page.wait_text("Page 1 of 21")
        assert page.evaluate("document.querySelectorAll('tbody tr').length") == 50
        page.click("Next")
        page.wait_text("app-0050", "table")
        page.choose("#search", "app-0999")
        page.wait_text("1 app.")
        assert_fit_for_all(page)
        page.click("Events")
        page.choose("#app", "load")
        page.wait_text("0 events seen")
        page.evaluate(
            """window.seen = {frames: 0, drawings: 0};
            (function count() { seen.frames += 1; requestAnimationFrame(count); })();
            const drawn = new MutationObserver(() => { seen.drawings += 1; });
            drawn.observe(document.querySelector("ol"), {childList: true});"""
        )
        seconds, rate = 3, 1000
        ended = threading.Event()
        behind: list[int] = []
        sent = 0

        def emit() -> None:
            nonlocal sent
            began = time.monotonic()
            while sent < seconds * rate:
                due = min(seconds * rate, int((time.monotonic() - began) * rate))
                lines = [("load", "STDOUT", {"output": f"{n}\n", "position": 8 * n}) for n in range(sent, due)]
                if lines:
                    stage.emulator.emit_many(lines)
                sent = due
                ended.wait(0.01)
            ended.set()

        with thread(emit, "load"):
            while not ended.wait(0.2):
                before = sent
                newest = page.evaluate("Number(document.querySelector('ol .said')?.textContent ?? -1)")
                behind.append(before - newest)
                assert page.evaluate("document.querySelectorAll('ol li').length") <= 200
        page.wait_text(f"{seconds * rate:,} events seen")
        page.wait_text(str(seconds * rate - 1), "ol li")
        seen = page.evaluate("seen")
        assert seen["drawings"] <= seen["frames"]
        assert behind[-1] < seconds * rate / 2, f"falls behind, events at a time: {behind}"


def test_the_demo_begins_with_a_link_to_its_page(tmp_path: Path, browser: Browser) -> None:
    with Process(meshbridge_command("demo"), tmp_path / "demo.log", {**os.environ, "COLUMNS": "80"}) as demo:
        demo.wait_for_output("What a subscriber of")
        found = re.search(r"http://\S+/#token=\S+", demo.output())
        assert found is not None
        page = browser.page()
        page.open(found[0])
        page.wait_text("1 of 1 daemon up, 1 of 1 sink up")
        page.close()
        assert demo.end() == 0


def test_the_files_are_open_and_closed_to_all_else(stage: Stage) -> None:
    answer = requests.get(stage.root, timeout=60)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    again = requests.get(stage.root, headers={"If-None-Match": answer.headers["ETag"]}, timeout=60)
    assert (again.status_code, again.content) == (304, b"")
    assert requests.head(stage.root, timeout=60).headers["Content-Length"] == str(len(answer.content))
    for name in ("nothing.js", "..%2f__init__.py", "__init__.py"):
        refused = requests.get(f"{stage.root}page/{name}", timeout=60)
        assert refused.status_code == 404
        assert refused.headers["Content-Type"] == "application/problem+json"
