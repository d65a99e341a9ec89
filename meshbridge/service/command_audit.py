"""Commands in the audit log, beside the calls of the admin API."""

import threading
from dataclasses import asdict
from pathlib import Path

from meshbridge.admin.audit import Audit
from meshbridge.model.status import FinishedCommand

__all__ = ["CommandAudit"]


class CommandAudit:
    """For any thread, where :class:`~meshbridge.admin.audit.Audit` is for one."""

    def __init__(self, path: Path | None) -> None:
        self._audit = Audit(path)
        self._lock = threading.Lock()  # guards _audit

    def write(self, finished: FinishedCommand) -> None:
        """A line with who (the sink), what, on which daemon and app, and how it ended."""
        facts = {key: value for key, value in asdict(finished).items() if value is not None and key != "at"}
        with self._lock:
            self._audit.write({"caller": f"sink {facts.pop('sink')}", **facts})
