"""The audit log: one line for each call, with who, what, and how it ended; never with a secret.

What stands in a request's body and headers is never looked at. Of a query, values stand only for the parameters that
are listed here; of others, their names.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import orjson

from meshbridge import telemetry

__all__ = ["Audit", "shown_query"]

_MODE = 0o600
_LONGEST = 512  # characters of anything that a caller chose
_SHOWN = frozenset(
    {
        "after", "app", "daemon", "event", "forward_to", "group", "index", "last_event_id", "limit", "max_size", "mode",
        "owner", "path", "position", "process_uuid", "since", "sink", "timeout", "wait",
    }
)  # fmt: skip


class Audit:
    """Appends to a file, or without one to the log. For one thread.

    Several may append to one file: each line is one write. A file that was moved away (logrotate) is created again.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._failed = False

    def write(self, facts: Mapping[str, Any]) -> None:
        """Never fails a call: a file that cannot be written is logged, when that begins and when it ends."""
        if self._path is None:
            telemetry.admin_call(facts)
            return
        try:
            os.write(self._opened(self._path), orjson.dumps({"time": _now(), **facts}) + b"\n")
        except OSError as error:
            if not self._failed:
                telemetry.audit_failed(str(self._path), str(error))
            self._failed = True
            telemetry.admin_call(facts)
        else:
            if self._failed:
                telemetry.audit_recovered(str(self._path))
            self._failed = False

    def _opened(self, path: Path) -> int:
        if self._descriptor is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(self._descriptor)):
                    return self._descriptor
            self.close()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
        return self._descriptor

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _now() -> str:
    seconds = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1000):03d}Z"


def shown_query(query: bytes) -> dict[str, list[str]]:
    """A query's parameters, those not listed with ``***`` in place of their values."""
    shown: dict[str, list[str]] = {}
    try:
        given = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return {"…": ["more than 100 parameters"]}
    for name, value in given:
        shown.setdefault(name[:_LONGEST], []).append(value[:_LONGEST] if name in _SHOWN else "***")
    return shown
