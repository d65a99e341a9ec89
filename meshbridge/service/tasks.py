"""Tasks: what App Mesh asks a bridge that it runs itself (docs/protocol.md, ``task_fetch`` and ``task_return``).

``run_task("meshbridge", "status")`` of any SDK client answers JSON: ``status``, ``check``, ``reload``.
"""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

import orjson

from meshbridge import telemetry
from meshbridge.appmesh import AppMeshError, AppMeshServer, AppMeshServerTCP, AppMeshServerWSS
from meshbridge.link import DaemonOptions
from meshbridge.web.addresses import is_loopback

__all__ = ["Answers", "Worker", "is_managed", "new_server"]

_VARIABLES = ("APP_MESH_PROCESS_KEY", "APP_MESH_APPLICATION_NAME")
_STOP_SECONDS = 2.0
_LONGEST_NAME = 64  # of a task that is unknown, as it is repeated

Answers = Mapping[str, Callable[[], Any]]
"""By the task's text: what makes the answer, to be sent as JSON."""


def is_managed(environ: Mapping[str, str]) -> bool:
    """Whether App Mesh has started this process."""
    return all(environ.get(variable) for variable in _VARIABLES)


def new_server(daemons: Mapping[str, DaemonOptions]) -> AppMeshServer | None:
    """To the daemon of this host, which must be the one that started the process; None where none is on loopback."""
    for options in daemons.values():
        host, port = options.address
        if not is_loopback(host):
            continue
        verify, certificate = options.ssl_verify, options.ssl_client_cert
        if options.scheme == "https":
            place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            return AppMeshServer(f"https://{place}", verify, certificate)
        if options.scheme == "wss":
            return AppMeshServerWSS(options.address, verify, certificate)
        return AppMeshServerTCP(verify, certificate, options.address)
    return None


class Worker:
    """Answers tasks, one after the other, in a thread of its own (``tasks``)."""

    def __init__(self, server: AppMeshServer, answers: Answers) -> None:
        self._server = server
        self._answers = answers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tasks", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._server.close()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                task = self._server.task_fetch()
                text = task if isinstance(task, str) else task.decode("utf-8", "replace")
                self._server.task_return(orjson.dumps(self._answer(text.strip())))
            except SystemExit:
                # App Mesh has started another process in the place of this one, which needs the journal.
                telemetry.log.warning("process replaced by App Mesh")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            except AppMeshError as error:
                if not self._stop.is_set():
                    telemetry.log.warning("task answer refused", error=str(error))

    def _answer(self, name: str) -> Any:
        if name not in self._answers:
            return {"error": f"unknown task {name[:_LONGEST_NAME]!r}", "allowed": sorted(self._answers)}
        try:
            return self._answers[name]()
        except Exception as error:  # noqa: BLE001 the caller gets it; the bridge goes on
            return {"error": str(error)}
