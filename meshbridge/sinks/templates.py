"""Bodies made by a template of the operator's (Jinja2), so that Slack, Teams or Alertmanager can be fed.

A template sees the fields of one event by name, and ``events``, a list of all that the body is for; see
:func:`fields_of`. It runs in Jinja2's immutable sandbox, and a name that isn't there is an error, not an empty text:
``data.exit_code | default("")`` says that it may be missing.

The sandbox bounds what a template can reach, not what it costs. That the kernel does: each template is rendered by a
process of its own (:mod:`meshbridge.sinks.template_process`), limited in CPU time, memory and size of the body.
"""

import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import orjson

from meshbridge.model.events import Event, cloudevent_attributes
from meshbridge.sinks import template_process
from meshbridge.sinks.base import Refused, Retry
from meshbridge.sinks.template_process import CPU_SECONDS, AnswerKind

__all__ = ["BodyTemplate", "fields_of"]


_ANSWER_SECONDS = 10.0  # on a machine that is too busy to give the process its CPU time
_MODULE = "meshbridge.sinks.template_process"


def fields_of(event: Event) -> dict[str, Any]:
    """What a template knows of an event, for orjson: its CloudEvents attributes, and what meshbridge calls the same.

    ``id source type subject time run`` as in the CloudEvents form; ``daemon``, ``app``, ``event`` (``start``, …),
    ``sequence`` (a number, or none), ``process_uuid``, ``reconciled``, ``timestamp``; ``data``, the daemon's.
    """
    attributes: dict[str, Any] = dict(cloudevent_attributes(event))
    return attributes | {
        "subject": attributes.get("subject"),
        "daemon": event.daemon,
        "app": event.app,
        "event": event.type.label,
        "sequence": event.sequence,
        "process_uuid": event.process_uuid,
        "reconciled": event.reconciled,
        "timestamp": event.timestamp,
        "data": orjson.Fragment(event.data),
    }


class BodyTemplate:
    """A compiled template, and the process that renders it. For one thread at a time."""

    def __init__(self, source: str, *, json: bool) -> None:
        """``json`` says that the body must be JSON, and then it is looked at before it is sent.

        Raises:
            ValueError: the template has a mistake (the text says in which line), or cannot be compiled within bounds.

        """
        self._source = source
        self._json = json
        self._process: _Process | None = None
        try:
            self._started()
        except (_MistakeError, _EndedError, OSError) as error:
            self.close()
            raise ValueError(f"template{' ' if str(error).startswith('line ') else ': '}{error}") from None

    def render(self, events: Sequence[Event]) -> bytes:
        """The body for these events.

        Raises:
            Refused: the template can't make one of them, or takes more than it may for it.
            Retry: the process that renders it cannot be started, or gets no CPU time.

        """
        body = self.render_fields([fields_of(event) for event in events], events[0].id)
        if self._json:
            try:
                orjson.loads(body)
            except orjson.JSONDecodeError as error:
                raise Refused(
                    f"template gives no JSON for event {events[0].id}: {error}; write texts as {{{{ … | tojson }}}}",
                    reason="template",
                ) from error
        return body

    def render_fields(self, fields: Sequence[dict[str, Any]], event_id: str) -> bytes:
        """The text for these names: those of the first stand by themselves, all are in ``events``. Raises as render."""
        try:
            return self._started().ask(orjson.dumps(fields))
        except (_MistakeError, _EndedError) as error:
            raise Refused(f"template fails for event {event_id}: {error}", reason="template") from None
        except OSError as error:
            self.close()
            raise Retry(f"template process: {error.strerror or error}", reason="template") from None

    def close(self) -> None:
        """Ends the process. A further :meth:`render` starts another one."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _started(self) -> "_Process":
        if self._process is None or self._process.ended:
            self._process = _Process()
            self._process.ask(self._source.encode())
        return self._process


class _MistakeError(Exception):
    """What a template does wrong."""


class _EndedError(Exception):
    """The process has ended before its answer."""


class _Process:
    """A running :mod:`~meshbridge.sinks.template_process`; ends with this object at the latest."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(_ANSWER_SECONDS)
        with theirs:
            self._popen = subprocess.Popen(  # noqa: S603 this interpreter and a module of ours
                [sys.executable, "-P", "-B", "-m", _MODULE],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,  # Ctrl-C is for the bridge, which ends this one
            )
        self.end = weakref.finalize(self, _end, self._popen, self._connection)

    @property
    def ended(self) -> bool:
        return not self.end.alive

    def ask(self, message: bytes) -> bytes:
        """The answer.

        Raises:
            _MistakeError: the template's.
            _EndedError: the process took more than it may.
            OSError: there is no answer in time.

        """
        try:
            template_process.send(self._connection, message)
            answer = template_process.receive(self._connection)
        except (EOFError, ConnectionError):
            self.end()
            raise _EndedError(_cause(self._popen.returncode)) from None
        if answer[0] == AnswerKind.MISTAKE:
            raise _MistakeError(answer[1:].decode(errors="replace"))
        return answer[1:]


def _end(popen: "subprocess.Popen[bytes]", connection: socket.socket) -> None:
    connection.close()
    try:
        popen.wait(0.1)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()


def _cause(code: int) -> str:
    if code == -signal.SIGPROF:
        return f"it takes more than {CPU_SECONDS:g} s of CPU time"
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return f"the process that renders it ended {how}"
