"""Adds events to Redis Streams (``XADD``), many in one round trip.

* **Fields.** Each entry has ``id``, ``daemon``, ``app``, ``type`` and ``event``, the encoded event; with
  ``format: binary`` the CloudEvents attributes and ``data`` are fields of their own.
* **Acknowledged** means: Redis answered with the entry's id. Whether it survives a crash of Redis is its own
  ``appendfsync``; whether it survives a failover is its replication, which is asynchronous.
* **Twice.** After a lost connection entries may be added again, with the same ``id`` field. ``exactly_once`` makes an
  entry's own id of run, sequence and part, and Redis refuses one that it has. That id must be greater than the last one
  of the stream, so a stream for each daemon is needed, and events without a sequence (gaps, reconciled ones) go to
  ``<stream>:beside``.
* **States.** With ``states`` the present state of every app is a field of a hash (``HSET``), removed with the app.
"""

import contextlib
import importlib.util
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from meshbridge.fields import Format, SecretFiles, Size, Tls
from meshbridge.model.events import Envelope, Event, cloudevent_attributes, encode
from meshbridge.sinks.base import Found, NotConnected, Preview, Refused, Retry, SinkError
from meshbridge.sinks.denied import DeniedOptions, DeniedPlaces
from meshbridge.sinks.options import PlaceTemplate, SinkOptions, secret_of
from meshbridge.sinks.splitting import encoded_parts
from meshbridge.sinks.states import AppStates

__all__ = ["RedisOptions", "RedisSink"]

_SCHEMES = {"redis": 6379, "rediss": 6379, "redis+sentinel": 26379, "redis+cluster": 6379}
_PARTS = 4096  # of one event, at most: the low bits of an entry's id
_LAST_SEQUENCE = 2**63 // _PARTS
_MAX_ANSWER_BYTES = 4 * 1024 * 1024  # to a batch of XADD: 30 bytes each
_COMMANDS = 200  # in one round trip, so that the time left is looked at in between
# The words that Redis begins an error with; the library turns some into classes of its own and leaves the word out.
_PASSING = ("LOADING ", "MASTERDOWN ", "BUSY ", "CLUSTERDOWN ", "NOREPLICAS ", "MISCONF ")
_DENIED = ("NOAUTH ", "WRONGPASS ", "NOPERM ")
_NOT_GREATER = "equal or smaller"


class RedisOptions(SinkOptions, SecretFiles, DeniedOptions):
    """Redis Streams, or a server that speaks the same protocol (Valkey, KeyDB)."""

    type: Literal["redis"]
    url: str = Field(
        description="redis://host[:port][/db], rediss:// (TLS), redis+sentinel://host[,host]/service[/db], redis+cluster://host"
    )
    username: str | None = Field(default=None, description="a user of the server (ACL)")
    password: SecretStr | None = Field(default=None, description="of username, or of the server")
    password_file: Path | None = None
    tls: Tls = Field(default=Tls(), description="for rediss://")
    stream: PlaceTemplate = Field(default="meshbridge", description="key of the stream of an event")
    max_length: int | None = Field(
        default=100_000, ge=1, description="entries that a stream keeps, about (MAXLEN ~); null: all"
    )
    exactly_once: bool = Field(
        default=False,
        description="ids of run and sequence, so that Redis refuses repetitions; needs {daemon} in stream",
    )
    states: PlaceTemplate | None = Field(
        default=None, description="key of a hash with the present state of every app, by its name; null: none"
    )
    max_value_bytes: Size = Field(default=512 * 1024, ge=1024, description="larger STDOUT is divided")

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in _SCHEMES or not parts.netloc:
            raise ValueError(f"not the address of a Redis server (use {', '.join(f'{one}://' for one in _SCHEMES)})")
        if "@" in parts.netloc:
            raise ValueError("name and password stand in username and password, not in the url")
        if parts.scheme == "redis+sentinel" and not parts.path.strip("/"):
            raise ValueError("redis+sentinel:// needs the name of the service: redis+sentinel://host:26379/mymaster")
        return value

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.exactly_once and "{daemon}" not in self.stream:
            raise ValueError("exactly_once needs a stream for each daemon: put {daemon} into stream")
        if self.states is not None and "{event}" in self.states:
            raise ValueError("states has {daemon} alone, or {daemon} and {app}: a state belongs to no event")
        if importlib.util.find_spec("redis") is None:
            raise ValueError("needs the extra redis: pip install 'meshbridge[redis]'")
        return self

    def probe(self, timeout_seconds: float) -> Found:
        """Connects and looks at the server and the stream; adds nothing.

        Raises:
            NotConnected: the server cannot be reached, refuses this user, or has something else at the stream's key.

        """
        sink = RedisSink(self)
        try:
            sink.connect(timeout_seconds)
            return Found(sink.described())
        finally:
            sink.close(timeout_seconds)

    def build(self, _name: str, _state_directory: Path) -> "RedisSink":
        return RedisSink(self)


class RedisSink:
    """See the module's text."""

    def __init__(self, options: RedisOptions) -> None:
        self._options = options
        self._client: Any = None  # a redis.Redis, or what has its methods: half of the library is without types
        self._states: AppStates | None = None
        self._states_pending: dict[tuple[str, str], str | None] = {}
        self._place = urlsplit(options.url).netloc
        self._denied = DeniedPlaces(options)

    def tell_states(self, states: AppStates) -> None:
        """See :class:`meshbridge.sinks.states.StateTeller`."""
        if self._options.states is not None:
            self._states = states

    # --- the contract --------------------------------------------------------------------------------------------

    def connect(self, timeout_seconds: float) -> None:
        self.close(0)
        deadline = time.monotonic() + timeout_seconds
        try:
            client = self._new_client(timeout_seconds)
            if (pool := getattr(client, "connection_pool", None)) is not None:
                pool.connection_class = _bounded(pool.connection_class)
            with _Deadline(deadline, lambda: self._disconnect(client)):
                client.ping()
        except SinkError:
            raise
        except Exception as error:  # noqa: BLE001 the library lets its own, OSError and ssl.SSLError through
            raise self._explained(error) from None
        self._client = client
        if self._states is not None:
            self._states_pending = dict(self._states.everything())

    def write(self, batch: Sequence[Envelope], timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds * 0.95
        entries, refused = self._entries(batch)
        acknowledged = 0
        for first in range(0, len(entries), _COMMANDS):
            chunk = entries[first : first + _COMMANDS]
            try:
                answers = self._round_trip([entry.command for entry in chunk], deadline)
            except SinkError as error:
                error.acknowledged = acknowledged
                raise
            for entry, answer in zip(chunk, answers, strict=True):
                if isinstance(answer, Exception) and (failure := self._failure(entry, answer)) is not None:
                    failure.acknowledged = acknowledged
                    raise failure
                if self._denied:
                    self._denied.allowed(entry.stream)
                acknowledged = entry.place if entry.is_last else acknowledged
        if refused is not None:
            raise refused
        self._publish_states()

    def idle(self) -> None:
        self._connected()
        self._publish_states()

    def close(self, timeout_seconds: float) -> None:  # noqa: ARG002 nothing is sent at the end
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()

    def preview(self, event: Event) -> list[Preview]:
        return [
            Preview(self._stream(part), {"type": event.type.label}, payload)
            for part, payload in encoded_parts(event, self._options.max_value_bytes, self._payload)
        ]

    def described(self) -> str:
        """What ``check`` says of the server.

        Raises:
            NotConnected: there is something else at a stream's key.

        """
        client = self._connected()
        try:
            version = client.info("server").get("redis_version", "unknown")
            kind = client.type(self._options.stream) if "{" not in self._options.stream else b"none"
        except Exception as error:  # noqa: BLE001 as in connect
            raise self._explained(error) from None
        if kind not in {b"none", b"stream"}:
            raise NotConnected(
                f"key {self._options.stream} of {self._place} is a {kind.decode()}: choose another stream",
                reason="wrong_type",
            )
        return f"Redis {version} at {self._place} accepts this user"

    # --- connecting ----------------------------------------------------------------------------------------------

    def _new_client(self, timeout_seconds: float) -> Any:
        import redis  # noqa: PLC0415 only where the extra is there
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.cluster import RedisCluster  # noqa: PLC0415
        from redis.retry import Retry as Retries  # noqa: PLC0415
        from redis.sentinel import Sentinel  # noqa: PLC0415

        options, parts = self._options, urlsplit(self._options.url)
        scheme, path = parts.scheme, parts.path.strip("/")
        settings: dict[str, Any] = {
            "username": options.username,
            "password": secret_of(options, "password"),
            "socket_timeout": timeout_seconds,
            "socket_connect_timeout": timeout_seconds,
            "retry": Retries(NoBackoff(), 0),  # trying again is the courier's
        }
        if scheme == "rediss":
            tls = options.tls
            settings |= {
                "ssl": True,
                "ssl_cert_reqs": "required" if tls.verify else "none",
                "ssl_check_hostname": tls.verify,
                "ssl_ca_certs": None if tls.ca_file is None else str(tls.ca_file),
                "ssl_certfile": None if tls.client_cert is None else str(tls.client_cert),
                "ssl_keyfile": None if tls.client_key is None else str(tls.client_key),
            }
        if scheme == "redis+cluster":
            return RedisCluster(host=parts.hostname or "", port=parts.port or _SCHEMES[scheme], **settings)
        if scheme == "redis+sentinel":
            service, _, database = path.partition("/")
            hosts = [_host_and_port(one, _SCHEMES[scheme]) for one in parts.netloc.split(",")]
            sentinel: Any = Sentinel(hosts, socket_timeout=timeout_seconds)  # type: ignore[no-untyped-call]
            return sentinel.master_for(service, db=int(database or 0), **settings)
        return redis.Redis(
            host=parts.hostname or "", port=parts.port or _SCHEMES[scheme], db=int(path or 0), **settings
        )

    def _connected(self) -> Any:
        if self._client is None:
            raise NotConnected(f"not connected to {self._place}")
        return self._client

    # --- adding --------------------------------------------------------------------------------------------------

    def _entries(self, batch: Sequence[Envelope]) -> "tuple[list[_Entry], Refused | None]":
        """An entry for each event or part, up to the first event that cannot be divided to fit."""
        entries: list[_Entry] = []
        for place, envelope in enumerate(batch, 1):
            try:
                parts = encoded_parts(envelope.event, self._options.max_value_bytes, self._payload)
            except Refused as refused:
                refused.acknowledged = place - 1
                return entries, refused
            for number, (part, payload) in enumerate(parts):
                stream, key = self._stream(part), self._key(part, number)
                command = ("XADD", stream, *self._trim(), key, *self._fields(part, payload))
                entries.append(_Entry(place, number + 1 == len(parts), part.id, stream, key, command))
        return entries, None

    def _trim(self) -> tuple[str, ...]:
        return () if self._options.max_length is None else ("MAXLEN", "~", str(self._options.max_length))

    def _stream(self, event: Event) -> str:
        places = {"daemon": event.daemon, "app": event.app, "event": event.type.label}
        stream = self._options.stream.format(**places)
        beside = self._options.exactly_once and not self._has_key(event)
        return f"{stream}:beside" if beside else stream

    def _has_key(self, event: Event) -> bool:
        return event.sequence is not None and event.run.isdecimal() and event.sequence < _LAST_SEQUENCE

    def _key(self, event: Event, number: int) -> str:
        if not self._options.exactly_once or not self._has_key(event):
            return "*"
        assert event.sequence is not None
        return f"{event.run}-{event.sequence * _PARTS + min(number, _PARTS - 1)}"

    def _payload(self, event: Event) -> bytes:
        return event.data if self._options.format is Format.BINARY else encode(event, self._options.format)

    def _fields(self, event: Event, payload: bytes) -> list[str | bytes]:
        if self._options.format is Format.BINARY:
            fields: list[str | bytes] = []
            for name, value in cloudevent_attributes(event).items():
                fields += (name, value)
            return [*fields, "data", payload]
        names = (("id", event.id), ("daemon", event.daemon), ("app", event.app), ("type", event.type.label))
        return [*(text for pair in names for text in pair), "event", payload]

    def _round_trip(self, commands: "Sequence[tuple[str | bytes, ...]]", deadline: float) -> list[Any]:
        client = self._connected()
        if time.monotonic() >= deadline:
            raise Retry(f"{self._place} is slow", after_seconds=0.0, reason="slow")
        try:
            with client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                with _Deadline(deadline, lambda: self._disconnect(client)):
                    answers: list[Any] = pipeline.execute(raise_on_error=False)
                    return answers
        except Exception as error:  # noqa: BLE001 as in connect
            self.close(0)  # a late answer must not be taken for that of the next command
            raise self._explained(error, lost=True) from None

    def _disconnect(self, client: Any) -> None:
        """Ends what is waited for; called by the timer's thread."""
        with contextlib.suppress(Exception):
            client.connection_pool.disconnect()

    def _failure(self, entry: "_Entry", answer: Exception) -> SinkError | None:
        """What an error answer means; None where the entry is there already."""
        text = str(answer)
        if _NOT_GREATER in text:
            if self._is_there(entry):
                return None
            return Refused(
                f"event {entry.id}: stream {entry.stream} has newer entries of another run", reason="out_of_order"
            )
        from redis import exceptions as theirs  # noqa: PLC0415 only where the extra is there

        shown, passing = text[:200], (
            theirs.OutOfMemoryError, theirs.BusyLoadingError, theirs.ReadOnlyError, theirs.TryAgainError,
            theirs.ClusterDownError,
        )  # fmt: skip
        if isinstance(answer, passing) or text.startswith(_PASSING):
            return Retry(f"{self._place} cannot add event {entry.id} now: {shown}", reason="busy")
        if _is_denied(answer) and not _is_of_place(answer):
            return NotConnected(f"{self._place} refuses this user: {shown}", reason="denied")
        if text.startswith("WRONGTYPE"):
            return Retry(f"key {entry.stream} of {self._place} is no stream: choose another", reason="wrong_type")
        refused = f"{self._place} refused event {entry.id}: {shown}"
        return self._denied.refusal(entry.stream, refused) if _is_of_place(answer) else Refused(refused)

    def _is_there(self, entry: "_Entry") -> bool:
        try:
            return bool(self._connected().xrange(entry.stream, entry.key, entry.key))
        except Exception as error:  # noqa: BLE001 as in connect
            raise self._explained(error, lost=True) from None

    # --- states --------------------------------------------------------------------------------------------------

    def _publish_states(self) -> None:
        if self._states is None or self._options.states is None:
            return
        self._states_pending |= self._states.changes()
        if not self._states_pending:
            return
        commands: list[tuple[str | bytes, ...]] = []
        for (daemon, app), state in self._states_pending.items():
            key = self._options.states.format(daemon=daemon, app=app, event="")
            commands.append(("HDEL", key, app) if state is None else ("HSET", key, app, state))
        self._round_trip(commands, time.monotonic() + 1.0)  # one that is refused costs its own field alone
        self._states_pending = {}

    # --- errors --------------------------------------------------------------------------------------------------

    def _explained(self, error: Exception, *, lost: bool = False) -> SinkError:
        import redis  # noqa: PLC0415 only where the extra is there

        text = str(error)[:200]
        if isinstance(error, SinkError):
            return error
        if _is_denied(error):
            return NotConnected(f"{self._place} refuses this user: {text}", reason="denied")
        if "certificate verify failed" in text.lower():
            return NotConnected(f"certificate of {self._place} not trusted: set tls.ca_file", reason="tls")
        if isinstance(error, redis.TimeoutError | TimeoutError):
            return NotConnected(f"{self._place} does not answer in time", reason="timeout")
        if lost:
            return NotConnected(f"connection to {self._place} lost: {text}", reason="connection_lost")
        return NotConnected(f"cannot connect to {self._place}: {text}", reason="unreachable")


class _BoundedSocket:
    """A socket on which only so much comes before something is sent: the library gathers whatever a server says."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._come = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def sendall(self, data: bytes) -> None:
        self._come = 0
        self._socket.sendall(data)

    def recv(self, size: int) -> bytes:
        data = self._socket.recv(size)
        self._come += len(data)
        if self._come > _MAX_ANSWER_BYTES:
            raise OSError(f"an answer of more than {_MAX_ANSWER_BYTES} bytes")
        return data


def _bounded(connection_class: type[Any]) -> type[Any]:
    """A connection of the library's with a bounded socket."""

    class Bounded(connection_class):  # type: ignore[misc]  # one of the library that is known when it runs
        def _connect(self) -> Any:
            return _BoundedSocket(super()._connect())

    return Bounded


class _Deadline:
    """Ends what the block waits for at a moment, whatever trickles in: a socket's timeout is for one read alone."""

    def __init__(self, deadline: float, end: Callable[[], None]) -> None:
        self._timer = threading.Timer(max(0.01, deadline - time.monotonic()), end)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_exception: object) -> None:
        self._timer.cancel()


class _Entry:
    """One XADD: of which event of the batch (counted from 1), and whether it is the last for that event."""

    __slots__ = ("command", "id", "is_last", "key", "place", "stream")

    def __init__(  # noqa: PLR0917 what an entry is
        self, place: int, is_last: bool, event_id: str, stream: str, key: str, command: tuple[str | bytes, ...]
    ) -> None:
        self.place, self.is_last, self.id = place, is_last, event_id
        self.stream, self.key, self.command = stream, key, command


def _is_of_place(error: Exception) -> bool:
    """Whether the user may not add to this stream; a login that has ended is another thing."""
    from redis import exceptions as theirs  # noqa: PLC0415 only where the extra is there

    return isinstance(error, theirs.NoPermissionError) or str(error).startswith("NOPERM ")


def _is_denied(error: Exception) -> bool:
    from redis import exceptions as theirs  # noqa: PLC0415 only where the extra is there

    denied = (theirs.AuthenticationError, theirs.AuthorizationError, theirs.NoPermissionError)
    return isinstance(error, denied) or str(error).startswith(_DENIED)


def _host_and_port(text: str, port: int) -> tuple[str, int]:
    host, _, given = text.rpartition(":")
    return (host, int(given)) if host else (text, port)
