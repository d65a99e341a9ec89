"""Publishes events to NATS JetStream, which acknowledges each when a stream has stored it.

``Nats-Msg-Id`` is the event's id, so what is offered again within the stream's duplicate window is stored once. At most
one message of each app is under way, and of many apps together: nothing of an app is stored behind an event that was
not, and duplicates that the server drops can't turn the order round.

The client library is asynchronous; its loop is driven here, by the calls of the sink, and stands still between them.
"""

import asyncio
import contextlib
import importlib.util
import re
import ssl
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlsplit

import orjson
from pydantic import Field, SecretStr, field_validator, model_validator

from meshbridge import telemetry
from meshbridge.fields import (
    Format,
    SecretFileError,
    SecretFiles,
    Size,
    TextList,
    Tls,
    read_secret_file,
    strict_certificate_hint,
)
from meshbridge.model.events import Envelope, Event, EventType, cloudevent_attributes, encode
from meshbridge.sinks.allowance import Allowance
from meshbridge.sinks.base import NotConnected, Preview, Refused, Retry, SinkError
from meshbridge.sinks.denied import DeniedOptions, DeniedPlaces
from meshbridge.sinks.options import PlaceTemplate, SinkOptions, secret_of
from meshbridge.sinks.splitting import encoded_parts

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

__all__ = ["NatsOptions", "NatsSink"]

Value = TypeVar("Value")

_WINDOW = 256  # messages under way, each of another app
_LOOK_SECONDS = 0.1
_SLACK_BYTES = 32  # of the header block, beside its lines
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')  # CloudEvents NATS binding, 3.1.3
_TOO_LARGE = 10054  # JetStream's err_code for a message above the stream's max_msg_size
_NO_RESPONDERS = "503"
_LEAST_OUTPUT_BYTES = 512  # of a part: what is not its text takes about as much
_PUBLISH_VIOLATION = re.compile(r'permissions violation for publish to "([^"]+)"', re.IGNORECASE)


class NatsOptions(SinkOptions, SecretFiles, DeniedOptions):
    """NATS JetStream. The stream has to exist; meshbridge makes none."""

    type: Literal["nats"]
    url: TextList = Field(description="nats://host:4222 or tls://host:4222, one or more servers of a cluster")
    username: str | None = Field(default=None, description="a user of the server, with password")
    password: SecretStr | None = Field(default=None, description="of username")
    password_file: Path | None = None
    token: SecretStr | None = Field(default=None, description="instead of a user")
    token_file: Path | None = None
    credentials: Path | None = Field(default=None, description="a .creds file (JWT and seed)")
    tls: Tls = Field(default=Tls(), description="for tls://")
    subject: PlaceTemplate = Field(default="meshbridge.{daemon}.{app}.{event}", description="subject of an event")
    stream: str | None = Field(default=None, description="the stream that must store it; default: whichever does")
    max_message_bytes: Size | None = Field(
        default=None, ge=1024, description="larger STDOUT is divided; default: what the server takes"
    )

    @field_validator("url")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            parts = urlsplit(url)
            if parts.scheme not in {"nats", "tls"} or not parts.hostname or parts.path not in {"", "/"}:
                raise ValueError("not the address of a server: use nats://host:4222 or tls://host:4222")
            if "@" in parts.netloc:
                raise ValueError("name, password and token stand in keys of their own, not in the url")
            _ = parts.port
        if not value or len({urlsplit(url).scheme for url in value}) > 1:
            raise ValueError("one server or more, all nats:// or all tls://")
        return value

    @field_validator("subject")
    @classmethod
    def _template(cls, value: str) -> str:
        if any(not token or token in {"*", ">"} or " " in token for token in value.split(".")):
            raise ValueError("a subject is words separated by dots, without * and >")
        return value

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if (self.username is None) != (self.password is None and self.password_file is None):
            raise ValueError("username and password (or password_file) go together")
        if importlib.util.find_spec("nats") is None:
            raise ValueError("needs the extra nats: pip install 'meshbridge[nats]'")
        return self

    def probe(self, timeout_seconds: float) -> None:
        """Connects, and asks whether there is JetStream, and the stream where one is named. Publishes nothing.

        Raises:
            NotConnected: something is not.

        """
        sink = NatsSink(self)
        try:
            sink.connect(timeout_seconds)
        finally:
            sink.close(timeout_seconds)

    def build(self, _name: str, _state_directory: Path) -> "NatsSink":
        return NatsSink(self)


_USUAL_PAYLOAD_BYTES = 1024 * 1024  # of a server with its default limit


class NatsSink:
    """See the module's text."""

    def __init__(self, options: NatsOptions) -> None:
        self._options = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Client | None = None
        self._answers: asyncio.Queue[Msg | _Denied | None] = asyncio.Queue()  # None: the connection is closed
        self._denied = DeniedPlaces(options)
        self._stream_limit: int | None = None  # of a message, as the stream says
        self._output_limit: int | None = None  # of a STDOUT message: what the stream's refusals have shown
        self._watcher: asyncio.Task[None] | None = None
        self._inbox = ""
        self._number = 0  # of the last message, over the connection's life: a late answer is never another's
        self._place = "NATS"

    # --- the contract --------------------------------------------------------------------------------------------

    def connect(self, timeout_seconds: float) -> None:
        self.close(0)
        self._loop = asyncio.new_event_loop()
        self._place = " ".join(urlsplit(url).netloc for url in self._options.url)
        try:
            self._run(self._connect(timeout_seconds))
        except SinkError:
            self.close(0)
            raise
        except Exception as error:  # noqa: BLE001 the library has dozens of its own, and lets others through
            self.close(0)
            raise self._explained(error) from None  # the library's errors may have what it was given in them

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        client = self._connected()
        deadline = time.monotonic() + timeout_seconds * 0.98
        done = 0
        while done < len(batch):
            rest = batch[done:] if done else batch
            flight = _Flight(rest, lambda event: self._messages(event, self._limit(client, event)))
            try:
                self._run(self._write(client, flight, deadline - time.monotonic()))
            except TimeoutError:
                flight.fail(self._late(flight))
            done += flight.acknowledged
            error = flight.error
            if error is not None and not self._divides_now(client, error, rest[flight.acknowledged].event):
                error.acknowledged = done
                raise error

    def _limit(self, client: "Client", event: Event) -> int:
        """Bytes of a message, headers included."""
        limits = [self._options.max_message_bytes, client.max_payload, self._stream_limit]
        if event.type is EventType.STDOUT:
            limits.append(self._output_limit)
        return min(limit for limit in limits if limit is not None)

    def _divides_now(self, client: "Client", error: SinkError, event: Event) -> bool:
        """Whether the event was too large for the stream, and goes out in smaller parts from now on."""
        if error.reason != "too_large" or event.type is not EventType.STDOUT:
            return False
        size = min(len(self._sized(event)), self._limit(client, event))
        if size // 2 < _LEAST_OUTPUT_BYTES:
            return False
        self._output_limit = size // 2
        telemetry.output_limit_found(self._place, size, self._output_limit)
        return True

    def idle(self) -> None:
        self._connected()
        for _ in range(3):  # a turn to read, one to answer, one to learn that it was the end
            self._run(asyncio.sleep(0))
        self._connected()

    def close(self, timeout_seconds: float) -> None:
        loop, client = self._loop, self._client
        self._loop = self._client = None
        if loop is None:
            return
        with contextlib.suppress(Exception):
            if client is not None and not client.is_closed:
                loop.run_until_complete(asyncio.wait_for(client.close(), max(timeout_seconds, 0.1)))
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Exception):
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks))
            loop.run_until_complete(asyncio.sleep(0))  # a closed transport tells its end in the next turn
        loop.close()

    # --- connecting ----------------------------------------------------------------------------------------------

    async def _connect(self, timeout_seconds: float) -> None:
        options, secure = self._options, urlsplit(self._options.url[0]).scheme == "tls"
        settings: dict[str, Any] = {
            "user": options.username,
            "password": secret_of(options, "password"),
            "token": secret_of(options, "token"),
        }
        if options.credentials is not None:
            try:
                read_secret_file(options.credentials)  # the library would raise an error that names no file
            except SecretFileError as error:
                raise NotConnected(f"cannot read credentials {error}", reason="secret") from None
            settings["user_credentials"] = str(options.credentials)
        if secure:
            settings["tls"] = options.tls.context()
        client = self._client = _new_client(secure)
        self._answers = asyncio.Queue()
        async with asyncio.timeout(timeout_seconds * 0.95):
            await client.connect(
                list(options.url),
                **settings,
                name="meshbridge",
                allow_reconnect=False,
                reconnect_time_wait=0,
                max_reconnect_attempts=1,
                connect_timeout=max(1, int(timeout_seconds)),
                error_cb=self._told,
            )
            self._watcher = asyncio.create_task(self._watch(client))
            self._inbox = client.new_inbox()
            await client.subscribe(f"{self._inbox}.*", cb=self._answered)
            await self._see_jetstream(client)

    async def _see_jetstream(self, client: "Client") -> None:
        """Asks for the stream, or for JetStream as such, so that what is missing is said before there are events."""
        name = self._options.stream
        subject = "$JS.API.INFO" if name is None else f"$JS.API.STREAM.INFO.{name}"
        await client.publish(subject, b"", reply=f"{self._inbox}.0")
        answer = await self._answers.get()
        if answer is None:
            raise NotConnected(f"connection to {self._place} lost", reason="connection_lost")
        if isinstance(answer, _Denied):  # it may be allowed to publish events all the same
            return
        self._stream_limit = _max_message_bytes(answer)
        error = _error_of(answer)
        if error is not None and error[0] not in {400, 403}:  # an account may not be allowed to ask
            what = "JetStream" if name is None else f"stream {name}"
            raise NotConnected(f"{self._place} has no {what}: {error[2]}", reason="no_stream")

    async def _told(self, error: Exception) -> None:
        """An error that the server has sent; those that end the connection are seen by :meth:`_watch`."""
        if violation := _PUBLISH_VIOLATION.search(str(error)):
            self._answers.put_nowait(_Denied(violation[1]))

    async def _answered(self, message: "Msg") -> None:
        self._answers.put_nowait(message)

    async def _watch(self, client: "Client") -> None:
        """Tells who waits for an answer that the connection has ended.

        The library would call back, but not where the end comes while it has something to send.
        """
        while not client.is_closed:  # noqa: ASYNC110 there is no event of the library that comes for sure
            await asyncio.sleep(_LOOK_SECONDS)
        self._answers.put_nowait(None)

    def _run(self, work: Coroutine[Any, Any, Value]) -> Value:
        assert self._loop is not None
        return self._loop.run_until_complete(work)

    def _connected(self) -> "Client":
        if self._client is None:
            raise NotConnected("not connected to NATS")
        if self._client.is_closed:
            raise NotConnected(f"connection to {self._place} lost", reason="connection_lost")
        return self._client

    def _explained(self, error: Exception) -> NotConnected:
        from nats import errors  # noqa: PLC0415 only where the extra is there

        unreachable = f"cannot connect to {self._place}"
        if isinstance(error, ssl.SSLCertVerificationError):
            hint = strict_certificate_hint(error) or "set tls.ca_file"
            text, reason = f"certificate of {self._place} not trusted: {error.verify_message}; {hint}", "tls"
        elif isinstance(error, _PlainConnection):
            text, reason = f"{self._place} offers no TLS: use nats:// if that is meant", "tls"
        elif isinstance(error, TimeoutError):
            text, reason = f"no connection to {self._place} in time", "timeout"
        elif "authorization" in f"{type(error).__name__} {error}".lower():
            text, reason = f"{self._place} refused the connection: not authorized", "refused_connection"
        elif isinstance(error, errors.NoServersError | ConnectionError):
            text, reason = unreachable, "unreachable"
        elif isinstance(error, OSError):
            text, reason = f"{unreachable}: {error.strerror or 'no TLS'}", "tls"
        else:
            text, reason = f"{unreachable}: {type(error).__name__}", "unreachable"
        return NotConnected(text, reason=reason)

    # --- publishing ----------------------------------------------------------------------------------------------

    async def _write(self, client: "Client", flight: "_Flight", timeout_seconds: float) -> None:
        under_way: dict[str, deque[_Message]] = {}  # by the number of the message
        while not self._answers.empty():
            self._answers.get_nowait()  # late ones of the write before
        async with asyncio.timeout(timeout_seconds):
            while True:
                while flight.ready and len(under_way) < _WINDOW and not flight.is_stopped:
                    lane = flight.ready.popleft()
                    self._number += 1
                    reply = f"{self._inbox}.{self._number}"
                    under_way[reply] = lane
                    if client.is_closed:
                        return flight.fail(self._lost())
                    await client.publish(lane[0].subject, lane[0].payload, reply=reply, headers=lane[0].headers)
                if not under_way:
                    return None
                answer = await self._answers.get()
                if answer is None:
                    return flight.fail(self._lost())
                if isinstance(answer, _Denied):
                    self._settle_denied(answer.subject, flight, under_way)
                elif (answered := under_way.pop(answer.subject, None)) is not None:
                    self._settle(answer, flight, answered)

    def _settle(self, answer: "Msg", flight: "_Flight", lane: "deque[_Message]") -> None:
        error = _error_of(answer)
        if error is None and self._denied:
            self._denied.allowed(lane[0].subject)
        flight.settle(lane, None if error is None else self._failure(lane[0], *error))

    def _settle_denied(self, subject: str, flight: "_Flight", under_way: "dict[str, deque[_Message]]") -> None:
        for reply, lane in list(under_way.items()):
            if lane[0].subject == subject:
                del under_way[reply]
                text = f"{self._place} refused event {lane[0].id}: no right to publish to {subject}"
                flight.settle(lane, self._denied.refusal(subject, text))

    def _lost(self) -> NotConnected:
        return NotConnected(f"connection to {self._place} lost", reason="connection_lost")

    def _late(self, flight: "_Flight") -> SinkError:
        if flight.answers:
            return Retry(f"{self._place} is slow", after_seconds=0.0, reason="slow")
        return NotConnected(f"{self._place} acknowledges nothing", reason="timeout")

    def _failure(self, message: "_Message", code: int, err_code: int, text: str) -> SinkError:
        if err_code == _TOO_LARGE:
            return Refused(f"{self._place} refused event {message.id}: {text}", reason="too_large")
        if str(code) == _NO_RESPONDERS and not err_code:
            return Retry(f"no stream of {self._place} takes subject {message.subject}", reason="no_stream")
        return Retry(f"{self._place} did not store event {message.id}: {text}", reason=f"nats_{err_code or code}")

    def preview(self, event: Event) -> list[Preview]:
        return [
            Preview(one.subject, one.headers, one.payload)
            for one in self._messages(event, self._options.max_message_bytes or _USUAL_PAYLOAD_BYTES)
        ]

    def _messages(self, event: Event, limit: int) -> "list[_Message]":
        """The message of the event, or of its parts.

        Raises:
            Refused: it is too large, and can't be divided.

        """
        subject, headers = self._subject(event), self._headers(event)
        payload = encode(event, self._options.format)
        if _head_bytes(headers) + len(payload) <= limit:
            return [_Message(event.id, subject, headers, payload)]
        messages = []
        for part, body in encoded_parts(event, limit, self._sized):
            headers = self._headers(part)
            messages.append(_Message(part.id, subject, headers, body[_head_bytes(headers) :]))
        return messages

    def _sized(self, event: Event) -> bytes:
        """As many bytes as the message takes, the payload at the end: the server's limit counts the headers too."""
        return bytes(_head_bytes(self._headers(event))) + encode(event, self._options.format)

    def _headers(self, event: Event) -> dict[str, str]:
        # A reconciled event's id has the app's name, and a header ends with its line.
        plain = event.id.isascii() and event.id.isprintable()
        headers = {"Nats-Msg-Id": event.id if plain else quote(event.id, safe=_PLAIN)}
        if self._options.stream is not None:
            headers["Nats-Expected-Stream"] = self._options.stream
        if self._options.format is not Format.BINARY:
            cloudevents = self._options.format is Format.CLOUDEVENTS
            headers["Content-Type"] = "application/cloudevents+json" if cloudevents else "application/json"
            return headers
        attributes = cloudevent_attributes(event)
        headers["Content-Type"] = attributes.pop("datacontenttype")
        return headers | {f"ce-{name}": quote(value, safe=_PLAIN) for name, value in attributes.items()}

    def _subject(self, event: Event) -> str:
        return self._options.subject.format(daemon=_token(event.daemon), app=_token(event.app), event=event.type.label)


def _head_bytes(headers: dict[str, str]) -> int:
    return sum([len(name) + len(value) + 4 for name, value in headers.items()]) + _SLACK_BYTES


class _Message:
    __slots__ = ("headers", "id", "payload", "place", "subject", "whole")

    def __init__(self, message_id: str, subject: str, headers: dict[str, str], payload: bytes) -> None:
        self.id = message_id
        self.subject = subject
        self.headers = headers
        self.payload = payload
        self.place = 0  # of its event in the batch
        self.whole = True  # with it the event is through: the only part, or the last


class _Flight:
    """The messages of one write, a lane for each app, and how far they have come."""

    def __init__(self, batch: Sequence[Envelope], messages_of: "Callable[[Event], list[_Message]]") -> None:
        self._done = [False] * len(batch)
        self._refused: dict[int, SinkError] = {}
        self._failed: SinkError | None = None
        self._end = len(batch)  # nothing from here on is sent: the first that can't be, or the end of the batch
        self.answers = 0
        lanes: dict[tuple[str, str], deque[_Message]] = {}
        for place, envelope in enumerate(batch):
            event = envelope.event
            try:
                messages = messages_of(event)
            except Refused as refused:
                self._end = place
                self._refused[place] = refused
                break
            for message in messages:
                message.place, message.whole = place, message is messages[-1]
            lanes.setdefault((event.daemon, event.app), deque()).extend(messages)
        self.ready = deque(lanes.values())
        """Lanes whose first message may go out."""

    @property
    def is_stopped(self) -> bool:
        """What holds for the server as a whole: nothing more goes out."""
        return self._failed is not None

    @property
    def acknowledged(self) -> int:
        return next((place for place in range(self._end) if not self._done[place]), self._end)

    @property
    def error(self) -> SinkError | None:
        """How the write ends; None: all of it is stored."""
        return self._failed or self._refused.get(self.acknowledged)

    def settle(self, lane: deque[_Message], error: SinkError | None) -> None:
        """The first message of a lane has its answer."""
        self.answers += 1
        message = lane.popleft()
        if isinstance(error, Refused):
            self._refused[message.place] = error  # and its lane ends here
        elif error is not None:
            self.fail(error)
        else:
            self._done[message.place] = self._done[message.place] or message.whole
            if lane:
                self.ready.append(lane)

    def fail(self, error: SinkError) -> None:
        self._failed = self._failed or error


_MAX_MESSAGE_BYTES = 1024 * 1024  # what comes back are acknowledgements of a few hundred bytes
_LINES_OF_AN_ANSWER = 8  # two, and more with headers


class _PlainConnection(Exception):  # noqa: N818 the name is what happened
    """The server did not ask for TLS where the settings do."""


def _new_client(secure: bool) -> "Client":
    from nats.aio.client import Client  # noqa: PLC0415 only where the extra is there
    from nats.errors import ProtocolError  # noqa: PLC0415
    from nats.protocol.parser import Parser  # noqa: PLC0415

    class SecureClient(Client):
        """Asked for TLS, the library goes on without where the server (or who stands between) doesn't ask for it."""

        async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
            if initial_connection and not info.get("tls_required"):
                raise _PlainConnection
            await super()._process_info(info, initial_connection)

    class BoundedParser(Parser):
        """A server may announce gigabytes, which the library would gather, or send without end."""

        def __init__(self, client: Client) -> None:
            super().__init__(client)
            self._allowance = Allowance()
            self._sent = 0

        async def parse(self, data: bytes = b"") -> None:
            sent, self._sent = self._sent, client.stats["out_msgs"]
            self._allowance.earn((self._sent - sent) * _LINES_OF_AN_ANSWER)
            if not self._allowance.spend(data.count(b"\n")):
                raise ProtocolError
            try:
                await super().parse(data)
            except (ProtocolError, OSError):
                raise
            except Exception as error:  # the library would log a traceback, and read no more
                raise ProtocolError from error
            if max(self.needed, self.header_needed) > _MAX_MESSAGE_BYTES:
                raise ProtocolError

    client = SecureClient() if secure else Client()
    client._ps = BoundedParser(client)  # noqa: SLF001 the library has no limit of its own
    return client


class _Denied(NamedTuple):
    """The server does not let this user publish there."""

    subject: str


def _max_message_bytes(answer: "Msg") -> int | None:
    """The stream's ``max_msg_size``, of an answer to a question for the stream; None: none, or not known."""
    try:
        size = orjson.loads(answer.data)["config"]["max_msg_size"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return size if isinstance(size, int) and size > 0 else None


def _error_of(answer: "Msg") -> tuple[int, int, str] | None:
    """Code, JetStream's finer code (0: none) and text of an answer that is an error."""
    status = (answer.headers or {}).get("Status")
    if status is not None:
        return int(status) if status.isdecimal() else 0, 0, "no answer"
    try:
        error = orjson.loads(answer.data).get("error")
    except (orjson.JSONDecodeError, AttributeError):
        return 0, 0, "an answer that is no acknowledgement"
    if error is None:
        return None
    return int(error.get("code", 0)), int(error.get("err_code", 0)), str(error.get("description", "no reason given"))


def _token(name: str) -> str:
    """A name as one word of a subject: dots, wildcards, blanks and control characters become ``_``."""
    return "".join("_" if char in ".*>" or char.isspace() or not char.isprintable() else char for char in name) or "_"
