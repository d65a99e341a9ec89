"""Debian's Chromium, headless, driven over its DevTools protocol: what a person does at a page, and what it asked for.

The protocol is JSON over a websocket (https://chromedevtools.github.io/devtools-protocol/), and the project has a
client for those: selenium or playwright would bring a program each, and say less of what a page asks for.
"""

import base64
import itertools
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import websocket

from tests.support import DEADLINE_SECONDS, Process, program, wait_for

_KEYS = {
    "Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, ""), " ": (32, " "),
    "End": (35, ""), "Home": (36, ""), "ArrowLeft": (37, ""), "ArrowRight": (39, ""),
}  # fmt: skip


class Browser:
    """One Chromium with a profile of its own, which is gone at the end."""

    def __init__(self, directory: Path) -> None:
        binary = program("chromium")
        assert binary is not None
        command = [
            binary,
            "--headless=new",
            "--no-sandbox",  # which root can't have
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-default-apps",
            "--disable-sync",
            "--no-first-run",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
            "--remote-debugging-port=0",
            f"--user-data-dir={directory / 'profile'}",
            "about:blank",
        ]
        self._process = Process(command, directory / "chromium.log")
        self._process.wait_for_output("DevTools listening on ")
        found = re.search(r"DevTools listening on (ws://\S+)", self._process.output())
        assert found is not None
        self._connection = websocket.create_connection(found[1], suppress_origin=True, timeout=DEADLINE_SECONDS)
        self._connection.settimeout(None)
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._answered = threading.Condition()
        self._listeners: dict[str, Callable[[str, dict[str, Any]], None]] = {}
        self._sending = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="chromium", daemon=True)
        self._reader.start()

    def page(self, width: int = 1440, height: int = 900, *, dark: bool = False) -> "Page":
        """An empty tab of a context of its own: nothing is shared with another."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session, context, width, height, dark=dark)

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        with self._sending:
            self._connection.send(json.dumps(message))
        with self._answered:
            assert self._answered.wait_for(lambda: number in self._answers, DEADLINE_SECONDS), f"no answer to {method}"
            answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def listen(self, session: str, listener: Callable[[str, dict[str, Any]], None]) -> None:
        self._listeners[session] = listener

    def _read(self) -> None:
        while True:
            try:
                message = json.loads(self._connection.recv())
            except (OSError, ValueError, websocket.WebSocketException):
                return
            if "id" in message:
                with self._answered:
                    self._answers[message["id"]] = message
                    self._answered.notify_all()
            elif (listener := self._listeners.get(message.get("sessionId", ""))) is not None:
                listener(message["method"], message["params"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.call("Browser.close")
        self._process.end()
        self._reader.join(DEADLINE_SECONDS)
        self._connection.close()


class Page:
    """One tab. ``requests``: the addresses it asked for; ``faults``: what its console, the policy or a script said."""

    def __init__(self, browser: Browser, session: str, context: str, width: int, height: int, *, dark: bool) -> None:
        self._browser = browser
        self._session = session
        self._context = context
        self.requests: list[str] = []
        self.faults: list[str] = []
        browser.listen(session, self._take)
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.call(f"{domain}.enable")
        self.look(width, height, dark=dark)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def _take(self, method: str, said: dict[str, Any]) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])
            case "Runtime.exceptionThrown":
                details = said["exceptionDetails"]
                self.faults.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if said["type"] in {"error", "warning", "assert"}:
                self.faults.append(str(said["args"]))
            case "Log.entryAdded" if said["entry"]["level"] == "error" and said["entry"]["source"] != "network":
                self.faults.append(said["entry"]["text"])
            case "Audits.issueAdded" if said["issue"]["code"] == "ContentSecurityPolicyIssue":
                self.faults.append(json.dumps(said["issue"]))

    # --- what a person does -----------------------------------------------------------------------------------------

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        wait_for(lambda: self.evaluate("document.readyState") == "complete", f"{url} to be loaded")

    def look(self, width: int, height: int, *, dark: bool) -> None:
        """As on a screen of that size, set to dark or light."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def click(self, text: str, kind: str = "button, a") -> None:
        """The first that is shown, can be clicked and says ``text`` (or has it as its label)."""
        found = f"""[...document.querySelectorAll({json.dumps(kind)})].find(
            e => e.ariaDisabled !== "true" && e.checkVisibility() &&
            [e.textContent.trim(), e.ariaLabel].includes({json.dumps(text)}))"""
        wait_for(lambda: self.evaluate(f"{found} !== undefined"), f"{text!r} to click; there is: {self.text()}")
        self.evaluate(f"{found}.click()")

    def press(self, key: str, *, shift: bool = False) -> None:
        code, text = _KEYS[key]
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind, key=key, code=key, windowsVirtualKeyCode=code, modifiers=8 if shift else 0,
                **({"text": text} if text and kind == "keyDown" else {}),
            )  # fmt: skip

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def choose(self, selector: str, value: str) -> None:
        """An option of a list, or the text of a field, as if a person had made it so."""
        self.evaluate(
            f"""(field => {{
                field.value = {json.dumps(value)};
                for (const name of ["input", "change"]) field.dispatchEvent(new Event(name, {{bubbles: true}}));
            }})(document.querySelector({json.dumps(selector)}))"""
        )

    # --- what a person sees -----------------------------------------------------------------------------------------

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript, waited for where it is a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str = "body") -> str:
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def wait_text(self, text: str, selector: str = "body") -> None:
        """``text`` may stand anywhere there, on however many lines; spaces are not compared, which styles may make."""
        wanted = "".join(text.split())

        def stands() -> bool:
            return wanted in "".join(self.text(selector).split())

        try:
            wait_for(stands)
        except AssertionError:
            raise AssertionError(f"{text!r} is not in {selector}: {self.text(selector)}; {self.faults}") from None

    def wait_no_text(self, text: str, selector: str = "body") -> None:
        wait_for(lambda: text not in self.text(selector), f"{text!r} to go from {selector}")

    def picture(self) -> bytes:
        """A PNG of what is in the window."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)
