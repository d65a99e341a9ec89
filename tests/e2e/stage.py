"""A bridge to look at: an emulated daemon with lively apps, one that is not there, a file, a hook that can refuse."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from meshbridge.admin.tokens import digest, new_token
from meshbridge.appmesh import App, AppMeshClient, AppMeshClientTCP
from meshbridge.config.load import load
from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.service.service import Service
from tests.support import free_port, wait_for, write_config

APPS: dict[str, dict[str, Any]] = {
    "talker": {"command": 'i=0; while true; do i=$((i+1)); echo "order $i shipped"; sleep 0.5; done', "shell": True},
    "crasher": {"command": "echo working; sleep 1; exit 3", "shell": True, "behavior": {"exit": "restart"}},
    "ailing": {"command": "sleep 86400", "shell": True, "health_check_cmd": "false"},
    "greeter": {"command": "echo hello; sleep 0.3; echo goodbye; exit 4", "shell": True, "status": 0},
    "painter": {
        "command": "printf '\\033[31m<b onclick=alert(1)>red</b>\\033[0m\\n'; sleep 86400",
        "shell": True,
        "description": "<img src=x onerror=alert(1)>",
    },
}


class Hook:
    """The destination of a webhook; answers with ``status``."""

    def __init__(self) -> None:
        self.status = 204
        self.bodies: list[bytes] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hook.status < 300:
                    hook.bodies.append(body)
                self.send_response(hook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Not to the test's output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="hook", daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Stage:
    """All of it, in this process. The bridge can be stopped and started again, at the same address."""

    def __init__(self, directory: Path, *, well: bool = False) -> None:
        """``well``: without the daemon that is not there, and the app that crashes."""
        self._well = well
        self.emulator = Emulator(EmulatorOptions(https_port=None, wss_port=None))
        self.hook = Hook()
        self.tokens = {scope: new_token() for scope in ("read", "operate")}
        self._directory = directory
        self._port = free_port()
        self._service: Service | None = None
        self._client: AppMeshClientTCP | None = None

    @property
    def service(self) -> Service:
        assert self._service is not None
        return self._service

    @property
    def client(self) -> AppMeshClient:
        """Of the emulated daemon, for what others do there."""
        assert self._client is not None
        return self._client

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    def url(self, scope: str = "operate", view: str = "") -> str:
        """The page with a token."""
        return f"{self.root}#token={self.tokens[scope]}{view}"

    def start(self) -> None:
        address = self.emulator.tcp_address
        assert address is not None
        settings: dict[str, Any] = {
            "daemons": {
                "node-a": {
                    "url": f"tcp://{address[0]}:{address[1]}",
                    "username": "admin",
                    "password": "admin123",
                    "tls": {"ca_file": str(self.emulator.ca_file)},
                },
                "node-b": {"url": f"tcp://127.0.0.1:{free_port()}", "username": "admin", "password": "admin123"},
            },
            "sinks": {
                "log": {"type": "file", "path": str(self._directory / "events.jsonl")},
                "hook": {"type": "webhook", "url": self.hook.url, "retry": {"initial": "100ms", "max": "500ms"}},
            },
            "journal": {"path": str(self._directory / "journal"), "max_bytes": "64MiB"},
            "exporter": {"listen": "127.0.0.1:0"},
            "admin": {
                "listen": f"127.0.0.1:{self._port}",
                "tokens": [
                    {"name": scope, "sha256": digest(token), "scopes": [scope]} for scope, token in self.tokens.items()
                ],
            },
        }
        if self._well:
            del settings["daemons"]["node-b"]
        self._service = Service(load(write_config(self._directory / "meshbridge.yaml", settings), {}))
        self._service.start()
        wait_for(lambda: any(link.status().up for link in self.service.parts.links), "the daemon")

    def stop(self) -> None:
        if self._service is not None:
            self._service.stop()
            self._service = None

    def refused_letter(self) -> None:
        """Has the hook refuse one event for good."""
        self.hook.status = 400
        before = self.service.journal.letters.count("hook")
        self.emulator.emit("talker", "EXIT", {"pid": 1, "exit_code": 7, "last_error": ""})
        wait_for(lambda: self.service.journal.letters.count("hook") > before, "a dead letter")
        self.hook.status = 204

    def __enter__(self) -> Self:
        self.emulator.start()
        address = self.emulator.tcp_address
        assert address is not None
        self._client = AppMeshClientTCP(address, str(self.emulator.ca_file))
        self._client.login("admin", "admin123")
        self.start()
        for name, app in APPS.items():
            if not (self._well and name == "crasher"):
                self._client.add_app(App({"name": name, **app}))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._client is not None:
            self._client.close()
        self.emulator.stop()
        self.hook.close()
