"""Sends events as OpenTelemetry log records (OTLP over HTTP, protobuf) to a collector or a backend.

* **Resource** (semantic conventions): ``service.name`` is the app, ``service.instance.id`` the process,
  ``host.name`` and ``appmesh.daemon`` the daemon. One request holds one resource for each process that it is about.
* **Record.** ``event_name`` is the CloudEvents type. The body is the output for STDOUT, one record for each line, else
  ``data`` as a map. The CloudEvents attributes are attributes (``cloudevents.event_id``).
* **Severity**: ERROR for an exit with a code other than 0, WARN for an exit without a code, for unhealthy and for gaps,
  else INFO.
* **Acknowledged** is what the server answers 2xx. OTLP lets it reject some records of a request and not say which
  (partial success): an event alone in its request is then refused; a larger request is sent again in halves, so what
  was accepted of it arrives twice, with the same ``cloudevents.event_id``.
"""

import gzip
import importlib.util
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

import orjson
from pydantic import Field, field_validator, model_validator

from meshbridge.fields import Format, Size
from meshbridge.model.events import Envelope, Event, EventType, cloudevent_attributes
from meshbridge.outside import said
from meshbridge.sinks.base import Found, NotConnected, Preview, Refused, Retry, SinkError
from meshbridge.sinks.http import new_client
from meshbridge.sinks.http.answers import Answer, failure, words_of
from meshbridge.sinks.http.options import HttpOptions
from meshbridge.sinks.http.probe import probe_server
from meshbridge.sinks.options import SinkOptions
from meshbridge.sinks.splitting import encoded_parts

if TYPE_CHECKING:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

    from meshbridge.sinks.http.client import Post

__all__ = ["OtlpOptions", "OtlpSink"]

_PATH = "/v1/logs"
_SEVERITIES = {"INFO": 9, "WARN": 13, "ERROR": 17}
_LINES_PER_EVENT = 10_000  # of nanoseconds: lines of an event keep their order where a backend sorts by time
_EVENTS_PER_SECOND = 100_000
_RECORD_BYTES = 512  # what a record has around its text, about
_ATTRIBUTES = {"id": "event_id", "type": "event_type", "source": "event_source", "specversion": "event_spec_version"}
_ATTRIBUTES |= {"subject": "event_subject"}  # the names of the semantic conventions; the others keep theirs


class OtlpOptions(SinkOptions, HttpOptions):
    """An OpenTelemetry collector, or a backend that takes OTLP. ``url`` without a path means ``/v1/logs``."""

    type: Literal["otlp"]
    resource: dict[str, str] = Field(
        default={}, description="further resource attributes, such as deployment.environment.name"
    )
    compression: Literal["gzip", "none"] = Field(default="gzip", description="of each request")
    max_record_bytes: Size = Field(default=256 * 1024, ge=1024, description="longer output is divided")
    max_body_bytes: Size = Field(
        default=4 * 1024 * 1024, ge=64 * 1024, description="of one request, before it is compressed"
    )

    @field_validator("format")
    @classmethod
    def _own_shape(cls, value: Format) -> Format:
        if value is not Format.CLOUDEVENTS:
            raise ValueError("an OTLP log record has one shape: leave format out")
        return value

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if importlib.util.find_spec("opentelemetry.proto") is None:
            raise ValueError("needs the extra otlp: pip install 'meshbridge[otlp]'")
        return self

    def address(self) -> str:
        parts = urlsplit(super().address())
        return urlunsplit(parts._replace(path=_PATH)) if parts.path in {"", "/"} else urlunsplit(parts)

    def probe(self, timeout_seconds: float) -> Found:
        """Sees whether the server can be reached, and takes a request without records.

        Raises:
            SinkError: it can't be reached, or refuses.

        """
        deadline = time.monotonic() + timeout_seconds
        found = probe_server(new_client(self, 1), timeout_seconds)
        sink = OtlpSink(self)
        try:
            sink.connect(deadline - time.monotonic())
            sink.send([], deadline - time.monotonic())
        except Refused as refused:
            return Found(found.text, f"refuses a request without records: {refused}", "see the server's log")
        finally:
            sink.close(0)
        return Found(f"{found.text} and accepts OTLP logs")

    def build(self, _name: str, _state_directory: Path) -> "OtlpSink":
        return OtlpSink(self)


@dataclass(frozen=True, slots=True)
class _Request:
    """The events before ``end`` that no request before has."""

    events: int
    end: int
    records: list[tuple[Event, "LogRecord"]]


class OtlpSink:
    """See the module's text. One request after the other."""

    def __init__(self, options: OtlpOptions) -> None:
        self._options = options
        self._client = new_client(options, 1)
        self._headers = {"Content-Type": "application/x-protobuf"}
        if options.compression == "gzip":
            self._headers["Content-Encoding"] = "gzip"

    def connect(self, timeout_seconds: float) -> None:
        self._client.connect(timeout_seconds)

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        if not self._client.is_open:
            raise NotConnected("not connected to the OTLP server")
        deadline = time.monotonic() + timeout_seconds
        requests, refused = self._requests(batch)
        acknowledged = 0
        try:
            for request in requests:
                self.send(request.records, deadline - time.monotonic(), request.events)
                acknowledged = request.end
        except SinkError as error:
            error.acknowledged = acknowledged
            raise
        if refused is not None:
            raise refused

    def idle(self) -> None:
        """Nothing to keep alive: a connection that has ended is replaced when it is used."""

    def close(self, timeout_seconds: float) -> None:  # noqa: ARG002 closing does not wait
        self._client.close()

    def preview(self, event: Event) -> list[Preview]:
        from google.protobuf.json_format import MessageToJson  # noqa: PLC0415 only where the extra is there

        requests, refused = self._requests([Envelope(0, event)])
        if refused is not None:
            raise refused
        return [
            Preview(f"POST {_PATH}", self._headers, MessageToJson(self._message(one.records)).encode())
            for one in requests
        ]

    def send(self, records: "Sequence[tuple[Event, LogRecord]]", timeout_seconds: float, events: int = 0) -> None:
        """Posts one request with these records.

        Raises:
            SinkError: they were not all accepted.

        """
        plain = self._message(records).SerializeToString()
        body = gzip.compress(plain, 1) if self._options.compression == "gzip" else plain
        failed: list[SinkError | None] = []

        def run(post: "Post") -> None:
            try:
                failed.append(self._failure(post(body, self._headers), plain, events))
            except SinkError as error:
                failed.append(error)

        if timeout_seconds > 0:
            self._client.together([run], timeout_seconds)
        if not failed:
            raise Retry(f"{self._client.place} is slow", after_seconds=0.0, reason="slow")
        if failed[0] is not None:
            raise failed[0]

    def _failure(self, answer: Answer, sent: bytes, events: int) -> SinkError | None:
        if answer.words and not words_of(answer.text, (), sent):  # the client has seen the compressed request alone
            answer = replace(answer, words="")
        error = failure(answer, self._client.place)
        if error is not None or not events:
            return error
        rejected, message = _partial_success(answer.body)
        if not rejected:
            return None
        why = said(words_of(message, (), sent))
        text = f"{self._client.place} rejected {rejected} records{f': {why}' if why else ''}"
        return Refused(text, reason="partial_success")

    # --- what goes out -------------------------------------------------------------------------------------------

    def _requests(self, batch: Sequence[Envelope]) -> tuple[list[_Request], Refused | None]:
        """As few requests as the limit allows, and why it ends before the end of the batch."""
        requests: list[_Request] = []
        first, size, records = 0, 0, list[tuple[Event, "LogRecord"]]()
        refused: Refused | None = None
        end = len(batch)
        for place, envelope in enumerate(batch):
            try:
                more = list(self._records(envelope.event))
            except Refused as error:
                error.acknowledged = end = place
                refused = error
                break
            added = sum(record.ByteSize() + _RECORD_BYTES for _, record in more)
            if records and size + added > self._options.max_body_bytes:
                requests.append(_Request(place - first, place, records))
                first, size, records = place, 0, []
            size += added
            records += more
        if end > first:
            requests.append(_Request(end - first, end, records))
        return [one for one in requests if one.records], refused

    def _message(self, records: "Sequence[tuple[Event, LogRecord]]") -> "ExportLogsServiceRequest":
        from opentelemetry.proto.collector.logs.v1 import logs_service_pb2  # noqa: PLC0415 only where the extra is
        from opentelemetry.proto.logs.v1 import logs_pb2  # noqa: PLC0415

        message = logs_service_pb2.ExportLogsServiceRequest()
        scopes: dict[tuple[str, str, str | None], logs_pb2.ScopeLogs] = {}
        for event, record in records:
            key = (event.daemon, event.app, event.process_uuid)
            if key not in scopes:
                resource = message.resource_logs.add()
                resource.resource.attributes.extend(_attributes(self._resource(event)))
                scopes[key] = resource.scope_logs.add()
                scopes[key].scope.name = "meshbridge"
            scopes[key].log_records.append(record)
        return message

    def _resource(self, event: Event) -> dict[str, str]:
        own = {"host.name": event.daemon, "appmesh.daemon": event.daemon}
        own["service.name"] = "appmesh" if event.type is EventType.GAP else event.app
        if event.process_uuid:
            own["service.instance.id"] = event.process_uuid
        return self._options.resource | own

    def _records(self, event: Event) -> "Iterator[tuple[Event, LogRecord]]":
        """The records of an event; none for output that is empty.

        Raises:
            Refused: it is too large, and can't be divided.

        """
        if event.type is not EventType.STDOUT:
            encoded_parts(event, self._options.max_record_bytes, lambda one: one.data)
            data = orjson.loads(event.data)
            yield event, self._record(event, 0, data, _severity(event, data))
            return
        number = 0
        for part, text in encoded_parts(event, self._options.max_record_bytes, _output):
            lines = text.decode().split("\n")
            for line in lines if lines[-1] else lines[:-1]:
                yield part, self._record(part, number, line.removesuffix("\r"), "INFO")
                number += 1

    def _record(self, event: Event, line: int, body: Any, severity: str) -> "LogRecord":
        from opentelemetry.proto.logs.v1 import logs_pb2  # noqa: PLC0415 only where the extra is there

        moment = max(0, round(event.timestamp * 1000) * 1_000_000)
        if event.sequence is not None:
            moment += event.sequence % _EVENTS_PER_SECOND * _LINES_PER_EVENT + min(line, _LINES_PER_EVENT - 1)
        attributes: dict[str, Any] = {
            f"cloudevents.{_ATTRIBUTES.get(name, name)}": value
            for name, value in cloudevent_attributes(event).items()
            if name not in {"time", "datacontenttype"}
        }
        if event.type is EventType.STDOUT:
            attributes["log.record.line"] = line
        return logs_pb2.LogRecord(
            time_unix_nano=moment,
            observed_time_unix_nano=max(0, round(event.received_at * 1e9)),
            severity_number=_SEVERITIES[severity],  # type: ignore[arg-type]
            severity_text=severity,
            event_name=event.type.cloudevents_type,
            body=_value(body),
            attributes=_attributes(attributes),
        )


def _partial_success(body: bytes) -> tuple[int, str]:
    """How many records a server rejected, and why. What is not an answer of OTLP says nothing."""
    from google.protobuf.message import DecodeError  # noqa: PLC0415 only where the extra is there
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2  # noqa: PLC0415

    answer = logs_service_pb2.ExportLogsServiceResponse()
    try:
        answer.ParseFromString(body)
    except DecodeError:
        return 0, ""
    return answer.partial_success.rejected_log_records, answer.partial_success.error_message


def _severity(event: Event, data: Any) -> str:
    fields = data if isinstance(data, dict) else {}
    if event.type is EventType.EXIT:
        code = fields.get("exit_code")
        return "INFO" if code == 0 else "WARN" if code is None else "ERROR"
    if event.type is EventType.HEALTH:
        return "INFO" if fields.get("health") == 0 else "WARN"
    return "WARN" if event.type is EventType.GAP else "INFO"


def _attributes(values: dict[str, Any]) -> "list[KeyValue]":
    from opentelemetry.proto.common.v1 import common_pb2  # noqa: PLC0415 only where the extra is there

    return [common_pb2.KeyValue(key=name, value=_value(value)) for name, value in values.items()]


def _value(value: Any) -> "AnyValue":
    """A JSON value as OTLP has it."""
    from opentelemetry.proto.common.v1 import common_pb2  # noqa: PLC0415 only where the extra is there

    if isinstance(value, bool):
        return common_pb2.AnyValue(bool_value=value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return common_pb2.AnyValue(int_value=value)
    if isinstance(value, float):
        return common_pb2.AnyValue(double_value=value)
    if isinstance(value, dict):
        return common_pb2.AnyValue(kvlist_value=common_pb2.KeyValueList(values=_attributes(value)))
    if isinstance(value, list):
        return common_pb2.AnyValue(array_value=common_pb2.ArrayValue(values=map(_value, value)))
    return common_pb2.AnyValue() if value is None else common_pb2.AnyValue(string_value=str(value))


def _output(event: Event) -> bytes:
    output = orjson.loads(event.data)["output"]
    assert isinstance(output, str)
    return output.encode()
