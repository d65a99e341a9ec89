"""Pushes events to Grafana Loki (``POST /loki/api/v1/push``, JSON): STDOUT as log lines, all else as a line of JSON.

* **Labels** are few, since each combination is a stream of its own in Loki: those of ``labels``, the daemon and the
  kind of event. What differs from event to event is structured metadata: ``id``, ``app``, ``run``, ``sequence``,
  ``process_uuid``, ``position``. So ``{daemon="node-a", event="stdout"} | app="web"`` finds an app's output. Loki 3
  takes structured metadata by default, Loki 2.9 with ``allow_structured_metadata``; for any other one,
  ``structured_metadata: false`` makes the app a label and leaves the rest to the line.
* **Lines.** The output of one event is cut at line ends; a line that the daemon cut in two arrives as two.
* **Time.** The daemon's clock gives whole seconds, and Loki sorts by nanoseconds: the place of an event in its run and
  of a line in its event fill them up. The same event always has the same time, so Loki knows what it has already.
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

import orjson
from pydantic import Field, SecretStr, field_validator

from meshbridge.fields import Format, Size, TextList
from meshbridge.model.events import Envelope, Event, EventType, encode
from meshbridge.sinks.base import Found, NotConnected, Preview, Refused, Retry, SinkError
from meshbridge.sinks.http import new_client
from meshbridge.sinks.http.answers import Answer, failure
from meshbridge.sinks.http.options import HttpOptions
from meshbridge.sinks.http.probe import probe_server
from meshbridge.sinks.options import SinkOptions
from meshbridge.sinks.splitting import encoded_parts

if TYPE_CHECKING:
    from meshbridge.sinks.http.client import Post

__all__ = ["LokiOptions", "LokiSink"]

_PUSH = "/loki/api/v1/push"
_FIELDS = ("daemon", "app", "event")
# A second of nanoseconds, dealt out: events by their sequence, and the lines of each. More of either share a place.
_EVENTS_PER_SECOND = 100_000
_LINES_PER_EVENT = 10_000
_REFUSES_METADATA = re.compile(r"^\s*allow_structured_metadata:\s*false\s*$", re.MULTILINE)  # in its configuration
_ABOUT_METADATA = "allow_structured_metadata"  # in its answer to a push that has some
_FRAME_BYTES = 64  # what a request has around its streams


class LokiOptions(SinkOptions, HttpOptions):
    """Grafana Loki. ``url`` without a path means the usual one, ``/loki/api/v1/push``."""

    type: Literal["loki"]
    tenant: str | None = Field(default=None, description="sent as X-Scope-OrgID")
    labels: dict[str, str] = Field(default={"job": "meshbridge"}, description="labels of every line")
    label_fields: TextList = Field(
        default=("daemon", "event"), description="of daemon, app, event: labels; the others are structured metadata"
    )
    structured_metadata: bool = Field(
        default=True, description="false where Loki has allow_structured_metadata: false; the app is a label then"
    )
    max_line_bytes: Size = Field(default=256 * 1024, ge=1024, description="Loki's max_line_size; longer ones are cut")
    max_body_bytes: Size = Field(default=4 * 1024 * 1024, ge=64 * 1024, description="of one request")

    @field_validator("label_fields")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(value) - set(_FIELDS)):
            raise ValueError(f"unknown field {unknown[0]!r}: use {', '.join(_FIELDS)}")
        return value

    @field_validator("labels")
    @classmethod
    def _named(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not name.isidentifier() or not name.isascii() or name.startswith("__") or name in _FIELDS:
                raise ValueError(f"{name!r} can be no label: letters, digits and _, and none of {', '.join(_FIELDS)}")
            if not text:
                raise ValueError(f"label {name} is empty")
        return value

    @field_validator("format")
    @classmethod
    def _one_text(cls, value: Format) -> Format:
        if value is Format.BINARY:
            raise ValueError("binary needs a place for attributes beside the body: use cloudevents or raw")
        return value

    def address(self) -> str:
        parts = urlsplit(super().address())
        return urlunsplit(parts._replace(path=_PUSH)) if parts.path in {"", "/"} else urlunsplit(parts)

    @property
    def fields_as_labels(self) -> tuple[str, ...]:
        """Without structured metadata nothing else can say which app a line of output is from."""
        return self.label_fields if self.structured_metadata else _FIELDS

    def probe(self, timeout_seconds: float) -> Found:
        """Sees whether the server can be reached, and whether it takes structured metadata. Pushes nothing.

        Raises:
            SinkError: it can't be reached.

        """
        deadline = time.monotonic() + timeout_seconds
        found = probe_server(new_client(self, 1), timeout_seconds)
        if not self.structured_metadata or found.doubt is not None:
            return found
        settings = self.model_copy(update={"url": SecretStr(self._configuration_url()), "url_file": None})
        client = new_client(settings, 1)
        try:
            client.connect(deadline - time.monotonic())
            answer = client.ask("GET", deadline - time.monotonic())
        except SinkError:  # it does not show its configuration, or a proxy refuses
            return found
        finally:
            client.close()
        if answer.status == HTTPStatus.OK and _REFUSES_METADATA.search(answer.text):
            return Found(
                found.text, f"{client.place} takes no structured metadata", "set structured_metadata: false in the sink"
            )
        return found

    def _configuration_url(self) -> str:
        """Where Loki shows its configuration: https://grafana.com/docs/loki/latest/reference/loki-http-api/#config."""
        parts = urlsplit(self.address())
        return urlunsplit(parts._replace(path=parts.path.removesuffix(_PUSH) + "/config", query=""))

    def build(self, _name: str, _state_directory: Path) -> "LokiSink":
        return LokiSink(self)


@dataclass(frozen=True, slots=True)
class _Push:
    """One request: the events from ``first`` to before ``end``."""

    first: int
    end: int
    body: bytes


class LokiSink:
    """See the module's text. One request after the other; without a connection of its own to lose."""

    def __init__(self, options: LokiOptions) -> None:
        self._options = options
        self._client = new_client(options, 1)
        self._headers = {"Content-Type": "application/json"}
        if options.tenant is not None:
            self._headers["X-Scope-OrgID"] = options.tenant

    def connect(self, timeout_seconds: float) -> None:
        self._client.connect(timeout_seconds)

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        if not self._client.is_open:
            raise NotConnected("not connected to Loki")
        deadline = time.monotonic() + timeout_seconds
        pushes, refused = self._pushes(batch)
        acknowledged = 0
        error: SinkError | None = refused

        def run(post: "Post") -> None:
            nonlocal acknowledged, error
            longest = 0.0
            for push in pushes:
                began = time.monotonic()
                if began + longest > deadline:
                    return  # it would be cut off in the middle, and come a second time
                try:
                    failed = self._failure(post(push.body, self._headers))
                except SinkError as lost:
                    failed = lost
                if failed is not None:
                    error = failed
                    return
                acknowledged = push.end
                longest = max(longest, time.monotonic() - began)

        if pushes:
            self._client.together([run], deadline - time.monotonic())
        end = acknowledged  # read once: the thread may still be at it where the time was up
        complete = end == (pushes[-1].end if pushes else 0)
        if complete and refused is None:
            return
        if error is None or (error is refused and not complete):
            error = Retry(f"{self._client.place} is slow", after_seconds=0.0, reason="slow")
        error.acknowledged = end
        raise error

    def idle(self) -> None:
        """Nothing to keep alive: a connection that has ended is replaced when it is used."""

    def close(self, timeout_seconds: float) -> None:  # noqa: ARG002 closing does not wait
        self._client.close()

    def preview(self, event: Event) -> list[Preview]:
        pushes, refused = self._pushes([Envelope(0, event)])
        if refused is not None:
            raise refused
        return [Preview(f"POST {_PUSH}", {"Content-Type": "application/json"}, one.body) for one in pushes]

    def _failure(self, answer: Answer) -> SinkError | None:
        # This holds for every event.
        if answer.status == HTTPStatus.BAD_REQUEST and _ABOUT_METADATA in answer.text:
            text = f"{self._client.place} takes no structured metadata; set structured_metadata: false"
            return Retry(text, reason="structured_metadata")
        return failure(answer, self._client.place)

    # --- what goes out -------------------------------------------------------------------------------------------

    def _pushes(self, batch: Sequence[Envelope]) -> tuple[list[_Push], Refused | None]:
        """As few requests as the limit allows, and why it ends before the end of the batch."""
        pushes: list[_Push] = []
        first, size, streams = 0, _FRAME_BYTES, dict[tuple[str, ...], list[bytes]]()
        for place, envelope in enumerate(batch):
            event = envelope.event
            try:
                values = list(self._values(event))
            except Refused as refused:
                if streams:
                    pushes.append(_Push(first, place, self._body(streams)))
                return pushes, refused
            more = sum(map(len, values)) + len(values)
            if streams and size + more > self._options.max_body_bytes:
                pushes.append(_Push(first, place, self._body(streams)))
                first, size, streams = place, _FRAME_BYTES, {}
            if values:
                stream = streams.setdefault(self._labels(event), [])
                size += more + (0 if stream else _FRAME_BYTES)
                stream += values
        if streams:
            pushes.append(_Push(first, len(batch), self._body(streams)))
        elif pushes:
            pushes[-1] = replace(pushes[-1], end=len(batch))  # those behind it have no lines
        return pushes, None

    def _labels(self, event: Event) -> tuple[str, ...]:
        return tuple(value for name, value in _fields(event).items() if name in self._options.fields_as_labels)

    def _body(self, streams: dict[tuple[str, ...], list[bytes]]) -> bytes:
        names = [name for name in _FIELDS if name in self._options.fields_as_labels]
        parts = [
            b'{"stream":%b,"values":[%b]}'
            % (orjson.dumps(self._options.labels | dict(zip(names, values, strict=True))), b",".join(lines))
            for values, lines in streams.items()
        ]
        return b'{"streams":[' + b",".join(parts) + b"]}"

    def _values(self, event: Event) -> Iterator[bytes]:
        """The entries of an event, each ``["<nanoseconds>", "<line>", {metadata}]``.

        Raises:
            Refused: its line is too long, and can't be divided.

        """
        moment = round(event.timestamp * 1000) * 1_000_000
        if event.sequence is not None:
            moment += event.sequence % _EVENTS_PER_SECOND * _LINES_PER_EVENT
        if event.type is not EventType.STDOUT:
            for part, encoded in encoded_parts(event, self._options.max_line_bytes, self._encoded):
                yield self._entry(moment, encoded.decode(), self._metadata(part, None))
            return
        number = 0
        for part, text in encoded_parts(event, self._options.max_line_bytes, _output):
            metadata = self._metadata(part, orjson.loads(part.data).get("position"))
            lines = text.decode().split("\n")
            for line in lines[:-1] if not lines[-1] else lines:
                place = min(number, _LINES_PER_EVENT - 1)
                yield self._entry(moment + place, line.removesuffix("\r"), metadata)
                number += 1

    def _entry(self, moment: int, line: str, metadata: dict[str, str]) -> bytes:
        entry: list[Any] = [str(moment), line]
        return orjson.dumps([*entry, metadata] if self._options.structured_metadata else entry)

    def _encoded(self, event: Event) -> bytes:
        return encode(event, self._options.format)

    def _metadata(self, event: Event, position: Any) -> dict[str, str]:
        metadata = {name: text for name, text in _fields(event).items() if name not in self._options.fields_as_labels}
        metadata |= {"id": event.id, "run": event.run}
        for name, value in (
            ("sequence", event.sequence),
            ("process_uuid", event.process_uuid),
            ("position", position),
            ("reconciled", "true" if event.reconciled else None),
        ):
            if value is not None:
                metadata[name] = str(value)
        return metadata


def _fields(event: Event) -> dict[str, str]:
    return {"daemon": event.daemon, "app": event.app, "event": event.type.label}


def _output(event: Event) -> bytes:
    output = orjson.loads(event.data)["output"]
    assert isinstance(output, str)
    return output.encode()
