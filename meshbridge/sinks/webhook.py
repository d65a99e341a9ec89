"""Posts events to a web hook: CloudEvents over HTTP, with Standard Webhooks signatures.

Three ways to send, by ``mode`` and ``format``:

* ``mode: single``: a request for each event, ``concurrency`` of them at once. Events of one app go through one lane,
  one after the other, so their order holds; what other lanes have delivered behind a failure is remembered, and not
  sent again when it is offered again.
* ``mode: batch``: one request for as many events as ``batch`` and ``max_body_bytes`` allow.
* ``template``: a body of the operator's own, for one event, or in ``mode: batch`` for several.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from meshbridge.fields import Batch, Format, SecretFileError, Size, read_secret_file, split_list
from meshbridge.model.events import Envelope, Event, cloudevent_attributes, encode
from meshbridge.sinks.base import Found, Gone, NotConnected, Preview, Refused, Retry, SinkError
from meshbridge.sinks.http import new_client
from meshbridge.sinks.http.answers import failure
from meshbridge.sinks.http.options import HttpOptions, shown_url
from meshbridge.sinks.http.probe import probe_server
from meshbridge.sinks.options import SinkOptions
from meshbridge.sinks.signing import signature_headers, signing_key
from meshbridge.sinks.splitting import encoded_parts

if TYPE_CHECKING:
    from meshbridge.sinks.http.client import Post
    from meshbridge.sinks.templates import BodyTemplate

__all__ = ["WebhookOptions", "WebhookSink"]

_CONTENT_TYPES = {
    (Format.CLOUDEVENTS, False): "application/cloudevents+json",
    (Format.CLOUDEVENTS, True): "application/cloudevents-batch+json",
    (Format.RAW, False): "application/json",
    (Format.RAW, True): "application/json",
    (Format.BINARY, False): "application/json",
}
_FRAME_BYTES = 2  # the brackets of a JSON array; each comma counts with the event before it
_RESERVED = ("webhook-", "ce-")
# What goes unescaped in a header of the binary mode: CloudEvents HTTP binding, 3.1.3.2.
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def _several(value: Any) -> Any:
    """One secret, or a list of them."""
    return (value,) if isinstance(value, SecretStr | Path) else split_list(value)


class WebhookOptions(SinkOptions, HttpOptions):
    """A web hook."""

    type: Literal["webhook"]
    batch: Batch = Field(default=Batch(max_events=64), description="how many events go out in one write")
    mode: Literal["single", "batch"] = Field(
        default="single", description="a request for each event, or for many; default: batch where batch is set"
    )
    secrets: Annotated[tuple[SecretStr, ...], BeforeValidator(_several)] = Field(
        default=(), alias="secret", description="signs (Standard Webhooks); several while one is rotated"
    )
    secret_files: Annotated[tuple[Path, ...], BeforeValidator(_several)] = Field(
        default=(), alias="secret_file", description="one or more files, each with one or more secrets, a line each"
    )
    concurrency: int = Field(default=4, ge=1, le=64, description="requests at once in mode single")
    max_body_bytes: Size = Field(
        default=1024 * 1024, ge=4096, description="a batch ends before it, larger STDOUT is divided"
    )
    template: str | None = Field(default=None, description="body of a request, a Jinja2 template")
    template_file: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _mode_of(cls, given: Any) -> Any:
        """Who sets ``batch`` wants batches, unless ``mode`` says otherwise or what is sent stands alone."""
        if isinstance(given, dict) and "batch" in given and "mode" not in given:
            alone = given.get("format") == Format.BINARY or given.get("template") or given.get("template_file")
            return given | {"mode": "single" if alone else "batch"}
        return given

    @field_validator("secrets")
    @classmethod
    def _keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for secret in value:
            signing_key(secret.get_secret_value())
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.secrets and self.secret_files:
            raise ValueError("secret and secret_file are both set: keep one")
        has_template = self.template is not None or self.template_file is not None
        if self.mode == "batch" and self.format is Format.BINARY:
            raise ValueError("binary is for one event: use mode single, or format cloudevents")
        if has_template and self.format is Format.BINARY:
            raise ValueError("a template makes the body: leave format out")
        for name in self.headers:
            if name.lower().startswith(_RESERVED) or (name.lower() == "content-type" and not has_template):
                raise ValueError(f"header {name} is set by meshbridge")
        if self.template is not None and (template := self.body_template()) is not None:
            template.close()
        return self

    def body_template(self) -> "BodyTemplate | None":
        """The template as it is now.

        Raises:
            ValueError: it has a mistake, or the file can't be read.

        """
        try:
            source = self.secret("template") if self.template is None else self.template
        except SecretFileError as error:
            raise ValueError(f"cannot read template_file {error}") from None
        if source is None:
            return None
        from meshbridge.sinks.templates import BodyTemplate  # noqa: PLC0415 few sinks need it

        return BodyTemplate(source, json="json" in _header(self.headers, "content-type", "application/json"))

    def signing_keys(self) -> list[bytes]:
        """The keys as they are now.

        Raises:
            NotConnected: a file can't be read, or holds no secret.

        """
        keys = [signing_key(secret.get_secret_value()) for secret in self.secrets]
        for path in self.secret_files:
            try:
                keys += [signing_key(line) for line in read_secret_file(path).split()]
            except SecretFileError as error:
                raise NotConnected(f"cannot read secret_file {error}", reason="secret") from None
            except ValueError as error:
                raise NotConnected(f"secret_file {path}: {error}", reason="secret") from None
        return keys

    def probe(self, timeout_seconds: float) -> Found:
        """Sees whether the hook's server can be reached, and whether secrets and template are in order. Posts nothing.

        Raises:
            SinkError: something is not.

        """
        sink = WebhookSink(self)
        try:
            sink.connect(timeout_seconds)
        finally:
            sink.close(timeout_seconds)
        return probe_server(new_client(self, 1), timeout_seconds)

    @property
    def write_seconds(self) -> float:
        """Long enough for a hook that uses the whole of its time, with a second request behind it."""
        return max(super().write_seconds, 2 * self.timeout)

    def build(self, _name: str, _state_directory: Path) -> "WebhookSink":
        return WebhookSink(self)


def _header(headers: Mapping[str, SecretStr], name: str, default: str) -> str:
    return next((value.get_secret_value() for key, value in headers.items() if key.lower() == name), default)


@dataclass(frozen=True, slots=True)
class _Message:
    """A request to be made. Once it is answered, the events before ``end`` are through, as far as its lane goes."""

    first: int  # place in the batch of the first event in it
    end: int  # of the one behind the last that is complete with it
    id: str
    headers: dict[str, str]
    body: bytes


class WebhookSink:
    """See the module's text. Without a connection of its own to lose: ``connect`` sees that the server is there."""

    def __init__(self, options: WebhookOptions) -> None:
        self._options = options
        self._client = new_client(options, options.concurrency)
        self._template: BodyTemplate | None = None
        self._ahead: set[int] = set()  # offsets delivered behind the first failure of their batch

    # --- the contract --------------------------------------------------------------------------------------------

    def connect(self, timeout_seconds: float) -> None:
        self.close(0)
        try:
            self._template = self._options.body_template()
        except ValueError as error:
            raise NotConnected(str(error), reason="template") from error
        self._options.signing_keys()
        self._client.connect(timeout_seconds)

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        if not self._client.is_open:
            raise NotConnected("not connected to the hook")
        deadline = time.monotonic() + timeout_seconds
        done = [envelope.offset in self._ahead for envelope in batch]
        single = self._options.mode == "single"
        until = time.monotonic() + timeout_seconds / 2  # the other half is for the hook
        messages, end, refused = self._singles(batch, done, until) if single else self._batches(batch, until)
        delivery = _Delivery(messages, done, self._options.signing_keys(), self._client.place)
        lanes = _lanes(messages, batch, self._options.concurrency if single else 1)
        runs = [delivery.run_of(lane, deadline) for lane in lanes]
        if runs:
            self._client.together(runs, deadline - time.monotonic())
        acknowledged = next((place for place in range(end) if not done[place]), end)
        self._ahead.difference_update([envelope.offset for envelope in batch])
        if acknowledged < len(batch):
            self._ahead.update(batch[place].offset for place in range(acknowledged, end) if done[place])
            error = refused if acknowledged == end and refused else delivery.error_at(acknowledged)
            error.acknowledged = acknowledged
            raise error

    def idle(self) -> None:
        """Nothing to keep alive: a connection that has ended is noticed, and replaced, when it is used."""

    def preview(self, event: Event) -> list[Preview]:
        envelope = [Envelope(0, event)]
        single = self._options.mode == "single"
        try:
            self._template = self._options.body_template()
            messages, _, refused = (
                self._singles(envelope, [False], math.inf) if single else self._batches(envelope, math.inf)
            )
        except (ValueError, Retry) as error:
            raise Refused(str(error), reason="template") from None
        finally:
            self.close(0)
        if refused is not None:
            raise refused
        # The signature needs the moment of sending, and the operator's own headers may hold secrets.
        shown = dict.fromkeys(self._options.headers, "…")
        return [
            Preview(f"POST {_shown_url(self._options)}", {**shown, **one.headers, "webhook-id": one.id}, one.body)
            for one in messages
        ]

    def close(self, timeout_seconds: float) -> None:  # noqa: ARG002 closing does not wait
        self._client.close()
        if self._template is not None:
            self._template.close()

    # --- what goes out -------------------------------------------------------------------------------------------

    def _singles(
        self, batch: Sequence[Envelope], done: Sequence[bool], until: float
    ) -> tuple[list[_Message], int, Refused | None]:
        """A request for each event or part; as far as events can be put into requests at all, and ``until`` allows."""
        messages: list[_Message] = []
        for place, envelope in enumerate(batch):
            if done[place]:
                continue
            if messages and time.monotonic() > until:
                return messages, place, None
            try:
                parts = encoded_parts(envelope.event, self._options.max_body_bytes, self._encoded)
            except Refused as refused:
                return messages, place, refused
            for number, (part, body) in enumerate(parts, 1):
                end = place + 1 if number == len(parts) else place
                messages.append(_Message(place, end, _ascii(part.id), self._headers(part), body))
        return messages, len(batch), None

    def _batches(self, batch: Sequence[Envelope], until: float) -> tuple[list[_Message], int, Refused | None]:
        """As few requests as the limits allow. A divided event begins a request and ends one, so that what is offered
        again after a failure makes the same requests again.
        """
        messages: list[_Message] = []
        first, parts, size = 0, list[tuple[Event, bytes]](), _FRAME_BYTES

        def send(end: int) -> None:
            nonlocal first, size
            if parts:
                messages.append(self._batch_message(first, end, parts))
                parts.clear()
            first, size = end, _FRAME_BYTES

        limit = self._options.max_body_bytes
        for place, envelope in enumerate(batch):
            if place and time.monotonic() > until:
                send(place)
                return messages, place, None
            try:
                several = encoded_parts(envelope.event, limit - _FRAME_BYTES - 1, self._encoded)
            except Refused as refused:
                send(place)
                return messages, place, refused
            if len(several) > 1:
                send(place)
            for number, (part, body) in enumerate(several, 1):
                if parts and size + len(body) + 1 > limit:
                    send(place)
                parts.append((part, body))
                size += len(body) + 1
                if len(several) > 1:
                    send(place + 1 if number == len(several) else place)
        send(len(batch))
        return messages, len(batch), None

    def _batch_message(self, first: int, end: int, parts: Sequence[tuple[Event, bytes]]) -> _Message:
        message_id = f"{_ascii(parts[0][0].id)}/x{len(parts)}"
        if self._template is not None:
            body = self._template.render([event for event, _ in parts])
        else:
            body = b"[" + b",".join(encoded for _, encoded in parts) + b"]"
        return _Message(first, end, message_id, {"Content-Type": self._content_type}, body)

    def _encoded(self, event: Event) -> bytes:
        if self._template is not None:
            return self._template.render([event])
        return encode(event, self._options.format)

    @property
    def _content_type(self) -> str:
        if self._template is not None:
            return "application/json"
        return _CONTENT_TYPES[self._options.format, self._options.mode == "batch"]

    def _headers(self, event: Event) -> dict[str, str]:
        if self._options.format is not Format.BINARY:
            return {"Content-Type": self._content_type}
        attributes = cloudevent_attributes(event)
        headers = {"Content-Type": attributes.pop("datacontenttype")}
        return headers | {f"ce-{name}": quote(value, safe=_PLAIN) for name, value in attributes.items()}


def _shown_url(options: HttpOptions) -> str:
    return shown_url(options.url) or f"the url in {options.url_file}"


def _ascii(text: str) -> str:
    """As a header can carry it: ids are plain already, but for what an app may be called by a daemon to come."""
    return text if text.isascii() and text.isprintable() else quote(text, safe=_PLAIN)


def _lanes(messages: Sequence[_Message], batch: Sequence[Envelope], most: int) -> list[list[_Message]]:
    """Deals messages out so that those of one app stay in one lane, in order: each new app to the emptiest lane."""
    lanes: list[list[_Message]] = [[] for _ in range(most)]
    lane_of: dict[tuple[str, str], list[_Message]] = {}
    for message in messages:
        event = batch[message.first].event
        app = (event.daemon, event.app)
        lane = lane_of.get(app)
        if lane is None:
            lane = lane_of[app] = min(lanes, key=len)
        lane.append(message)
    return [lane for lane in lanes if lane]


class _Delivery:
    """The messages of one write on their way: which are through, and what stopped it.

    Its lanes run in threads of their own; each writes to places that are no other's, and ``_stopped`` to all.
    """

    def __init__(self, messages: Sequence[_Message], done: list[bool], keys: Sequence[bytes], place: str) -> None:
        self._done = done
        self._keys = keys
        self._place = place
        self._refused: dict[int, SinkError] = {}
        self._stop = threading.Event()  # the hook as a whole accepts nothing now
        self._stopped: SinkError | None = None
        self._count = len(messages)

    def run_of(self, lane: Sequence[_Message], deadline: float) -> "Callable[[Post], None]":
        """What a lane does in its thread: one message after the other, until one fails or the time is up."""

        def run(post: "Post") -> None:
            longest = 0.0
            for message in lane:
                began = time.monotonic()
                # A request that is cut off in the middle comes a second time: rather none is begun that won't do.
                if self._stop.is_set() or began + longest > deadline:
                    return
                error = self._send(post, message)
                if isinstance(error, Refused):
                    self._refused[message.first] = error
                    return
                if error is not None:
                    if self._stopped is None or isinstance(error, Gone):
                        self._stopped = error
                    self._stop.set()
                    return
                self._done[message.first : message.end] = [True] * (message.end - message.first)
                longest = max(longest, time.monotonic() - began)

        return run

    def _send(self, post: "Post", message: _Message) -> SinkError | None:
        headers = message.headers | signature_headers(self._keys, message.id, int(time.time()), message.body)
        try:
            return failure(post(message.body, headers), self._place)
        except SinkError as error:
            return error

    def error_at(self, place: int) -> SinkError:
        """How the write ends whose first event that is not through stands at ``place``.

        What holds for the hook as a whole goes first: a refusal comes again when the rest is offered.
        """
        if self._stopped is not None:
            return self._stopped
        refused = self._refused.get(place)
        if refused is not None:
            return refused
        return Retry(f"{self._place} is slow: {self._count} requests take too long", after_seconds=0.0, reason="slow")
