"""The connection to a broker: paho-mqtt makes it, authenticates and keeps it alive; its network loop is driven here.

What an event takes goes past paho (:mod:`meshbridge.sinks.mqtt.publishing`): whole windows leave in one send, and of
what comes in only packets that are neither acknowledgements nor messages are handed to paho.
"""

import contextlib
import http.client
import select
import ssl
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions
from pydantic import Field, PlainSerializer, SecretStr, field_validator

from meshbridge import telemetry
from meshbridge.appmesh.final_response import FinalResponse
from meshbridge.fields import Duration, SecretFiles, Tls, strict_certificate_hint
from meshbridge.sinks.allowance import Allowance
from meshbridge.sinks.base import NotConnected, SinkError
from meshbridge.sinks.mqtt.answers import FAILURE, label_of, name_of
from meshbridge.sinks.mqtt.incoming import (
    MAX_PUBLISH_BYTES,
    SUBACK,
    Incoming,
    IncomingMessage,
    PacketError,
    message_of,
    puback,
)
from meshbridge.sinks.mqtt.paho_socket import Tap
from meshbridge.sinks.mqtt.publishing import reason_in
from meshbridge.sinks.options import secret_of

__all__ = ["CLOSED_BY_BROKER", "BrokerConnection", "BrokerOptions", "Will"]

_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_MAX_POLL_SECONDS = 0.5
_LEAST_BYTES = 12  # of what is sent, for each packet that answers it: a PUBLISH at QoS 2 has two answers
_TOO_MUCH = "far more packets than it was asked for"
_BRIEF_SECONDS = 10.0  # a connection that is lost so soon, again and again, is one that somebody else takes
_UPGRADE = {  # RFC 6455, 4.1; the key of a connection that is closed at once is as good as any
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "bWVzaGJyaWRnZS1hc2tzIQ==",
    "Sec-WebSocket-Protocol": "mqtt",
}
TAKEN_OVER = label_of(0x8E)
CLOSED_BY_BROKER = frozenset({"connection_lost", *map(label_of, (0x80, 0x81, 0x82, 0x83, 0x87, 0x90, 0x95, 0x99))})
"""Reasons of a lost connection for which a message may be to blame."""


def _without_query(url: str) -> str:
    """As it may be shown: a query often has a token in it."""
    shown, has_query, _ = url.partition("?")
    return f"{shown}?…" if has_query else shown


class BrokerOptions(SecretFiles):
    """How a broker is reached."""

    url: Annotated[str, PlainSerializer(_without_query, return_type=str)] = Field(
        description="mqtt://, mqtts://, ws:// or wss:// host[:port][/path][?query]; shown without the query"
    )
    protocol: Literal["5", "3.1.1"] = Field(default="5", description="MQTT version")
    username: str | None = Field(default=None, description="a user of the broker")
    password: SecretStr | None = Field(default=None, description="of username")
    password_file: Path | None = None
    tls: Tls = Field(default=Tls(), description="for mqtts:// and wss://")
    keepalive: Duration = Field(default=60.0, ge=5, le=65535, description="how soon a silent connection is noticed")
    client_id: str | None = Field(default=None, description="default: meshbridge-<random, kept in the journal>")

    @field_validator("protocol", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) else value

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError(
                f"not the address of a broker: {_without_query(value)!r} (use mqtt://host:1883, mqtts://, ws:// or wss://)"
            )
        if parts.fragment or (parts.scheme in {"mqtt", "mqtts"} and (parts.path.strip("/") or parts.query)):
            raise ValueError("mqtt:// and mqtts:// have no path and no query, and no url has a fragment (#)")
        if parts.username or parts.password:
            raise ValueError("name and password stand in username and password, not in the url")
        _ = parts.port  # raises ValueError itself
        return value


class Will(NamedTuple):
    """What the broker publishes, retained, when the connection ends in any way but :meth:`BrokerConnection.close`."""

    topic: str
    payload: bytes


class BrokerConnection:
    """One connection at a time; a fresh session each time, since the journal remembers, not the broker.

    ``acks`` holds the acknowledgements that have arrived and were not read: (packet type, packet id, reason code).
    """

    def __init__(self, options: BrokerOptions, client_id: str) -> None:
        self._options = options
        self.client_id = client_id
        self._url = urlsplit(options.url)
        self._v5 = options.protocol == "5"
        self._client: paho.Client | None = None
        self._poller = select.poll()
        self._connack: ReasonCode | None = None
        self._lost: str | None = None  # why the connection ended, once it has
        self._lost_reason = "connection_lost"
        self._connected_at: float | None = None  # monotonic seconds
        self._brief = 0  # connections in a row that were lost within seconds
        self._tap: Tap | None = None
        self._incoming = Incoming()
        self._is_sending = False  # a packet has gone out in part: no other may go between
        self._rest = b""  # of what was offered and the socket did not take
        self.acks: list[tuple[int, int, int]] = []
        self.receive_maximum: int | None = None  # as the broker said
        self.max_packet_bytes: int | None = None
        self.max_qos = 2
        self.retains = True
        self.will: Will | None = None
        self.on_message: Callable[[IncomingMessage], bool] = lambda _message: False
        self._allowance = Allowance()
        self._subscribed: dict[int, str] = {}  # topic filters by the packet id of their SUBSCRIBE
        self.refused_filters: set[str] = set()  # which the broker does not let this bridge subscribe to
        self.open_filters = 0  # whose SUBACK has not come

    @property
    def place(self) -> str:
        return f"{self._host}:{self._port}"

    @property
    def _host(self) -> str:
        return self._url.hostname or ""

    @property
    def _port(self) -> int:
        return self._url.port or _DEFAULT_PORTS[self._url.scheme]

    @property
    def client(self) -> paho.Client | None:
        """What paho has of it, None while there is none."""
        return self._client

    def open(self, timeout_seconds: float) -> None:
        """Connects, or reconnects where there is a connection.

        Raises:
            NotConnected: the broker can't be reached, or does not let this bridge in.

        """
        self.close(0)
        deadline = time.monotonic() + timeout_seconds
        client = self._new_client()
        client.connect_timeout = timeout_seconds
        try:
            if self._url.scheme in {"ws", "wss"}:
                self._try_upgrade(deadline - time.monotonic())
            client.connect(
                self._host, self._port, keepalive=int(self._options.keepalive), properties=self._connect_properties()
            )
            if client.socket() is None:  # gone already, as when a client certificate is wanted
                self._lost = self._lost or f"broker {self.place} closed the connection"
                self._raise_if_lost()
            self._client = client
            self._tap = Tap(client)
            while self._connack is None:
                if time.monotonic() >= deadline:
                    raise NotConnected(f"broker {self.place} accepts but does not answer", reason="timeout")
                self.pump(deadline)
                if self._connack is None:  # a broker that refuses gives the reason, and then disconnects
                    self._raise_if_lost()
        except (OSError, ValueError, paho.WebsocketConnectionError) as error:
            self.close(0)
            raise NotConnected(self._explain(error), reason="unreachable") from error
        except SinkError:
            self.close(0)
            raise
        self._raise_if_refused(self._connack)
        self._connected_at = time.monotonic()

    def subscribe(self, topic_filter: str, *, no_local: bool = False, with_retained: bool = False) -> None:
        """Has messages go to ``on_message``. In MQTT 5 ``no_local`` leaves out one's own.

        Without ``with_retained`` those that were retained before are left out in MQTT 5, and marked in 3.1.1.

        Raises:
            NotConnected: the connection is lost.

        """
        self.check()
        assert self._client is not None
        if self._v5:
            handling = SubscribeOptions.RETAIN_DO_NOT_SEND
            if with_retained:
                handling = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
            how = SubscribeOptions(qos=1, noLocal=no_local, retainAsPublished=True, retainHandling=handling)
            _, packet_id = self._client.subscribe(topic_filter, options=how)
        else:
            _, packet_id = self._client.subscribe(topic_filter, qos=1)
        if packet_id is not None:
            self._subscribed[packet_id] = topic_filter
            self.open_filters += 1

    def unsubscribe(self, topic_filter: str) -> None:
        self.check()
        assert self._client is not None
        self._client.unsubscribe(topic_filter)

    def fileno(self) -> int:
        """The socket's descriptor, -1 where there is no connection. For any thread."""
        tap = self._tap
        return -1 if tap is None else tap.fileno()

    @property
    def is_open(self) -> bool:
        return self._client is not None and self._lost is None

    def close(self, timeout_seconds: float, last_words: bytes = b"") -> None:
        """Ends the connection; with time, as one that says good-bye after ``last_words``, so that no will is sent."""
        client, self._client, tap = self._client, None, self._tap
        self._connack = self._lost = self._tap = self._connected_at = None
        self._lost_reason = "connection_lost"
        self._incoming, self._rest, self.acks = Incoming(), b"", []
        self._allowance = Allowance()
        self._is_sending = False
        self._subscribed, self.refused_filters, self.open_filters = {}, set(), 0
        if client is None:
            return
        client.on_disconnect = None
        sock = client.socket()
        with contextlib.suppress(Exception):
            # Last words that don't go out whole are the will's, which a good-bye would take back.
            if timeout_seconds and (not last_words or (tap is not None and tap.write(last_words) == len(last_words))):
                client.disconnect()  # sends at once
        if sock is not None:  # paho closes its socket only when its loss is reported
            with contextlib.suppress(OSError):
                sock.close()

    def check(self) -> None:
        """Raises NotConnected where there is no connection, or it was lost."""
        if self._client is None:
            raise NotConnected(f"not connected to broker {self.place}")
        self._raise_if_lost()

    def offer(self, data: bytes) -> None:
        """Hands ``data`` to the socket as far as it takes it now; the rest follows with the next call of any kind.

        Raises:
            NotConnected: the connection is lost.

        """
        self._rest += data
        self._allowance.earn(len(data) // _LEAST_BYTES)
        self._send_rest()
        self._raise_if_lost()

    def _send_rest(self) -> None:
        tap = self._tap
        assert tap is not None
        try:
            while self._rest:
                self._rest = self._rest[tap.write(self._rest) :]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            self._lost = self._lost or f"connection to broker {self.place} lost: {error.strerror or error}"
        tap.amid_packet = bool(self._rest)

    def send(self, data: bytes, deadline: float) -> None:
        """Hands ``data`` to the socket; acknowledgements that come meanwhile are kept.

        Raises:
            NotConnected: the connection is lost, or the broker does not read in time.

        """
        self._allowance.earn(len(data) // _LEAST_BYTES)
        if self._rest:
            data, self._rest = self._rest + data, b""
        tap = self._tap
        assert tap is not None
        self._is_sending = True
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                self._raise_if_lost()
                try:
                    sent += tap.write(view[sent:])
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    if time.monotonic() >= deadline:
                        raise NotConnected(f"broker {self.place} does not read", reason="timeout") from None
                    tap.amid_packet = True
                    self.pump(deadline, to_write=True)
                except OSError as error:
                    self._lost = f"connection to broker {self.place} lost: {error.strerror or error}"
        self._is_sending = tap.amid_packet = False

    def pump(self, deadline: float, *, to_write: bool = False) -> None:
        """Waits for the socket until ``deadline``, half a second at most; takes what has come, and lets paho work."""
        client, tap = self._client, self._tap
        assert client is not None
        assert tap is not None
        if client.socket() is None:
            self._lost = self._lost or f"connection to broker {self.place} lost"
            return
        if not tap.has_buffered():
            seconds = min(_MAX_POLL_SECONDS, max(0.0, deadline - time.monotonic()))
            writing = to_write or bool(self._rest) or client.want_write()
            self._poller.register(tap, select.POLLIN | (select.POLLOUT if writing else 0))
            try:
                self._poller.poll(int(seconds * 1000) + (1 if seconds else 0))
            finally:
                self._poller.unregister(tap)
        self._read(client, tap)
        if self._rest and not self._is_sending:
            self._send_rest()
        if client.want_write():
            client.loop_write()
        client.loop_misc()

    def _read(self, client: paho.Client, tap: Tap) -> None:
        try:
            data = tap.read()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            self._lost = f"connection to broker {self.place} lost: {error.strerror or error}"
            return
        if not data:
            self._lost = self._lost or f"broker {self.place} closed the connection"
            return
        self._take(client, tap, data)

    def _take(self, client: paho.Client, tap: Tap, data: bytes) -> None:
        try:
            acks, publishes, others = self._incoming.take(data)
            messages = [message_of(flags, body, is_v5=self._v5, fault=fault) for flags, body, fault in publishes]
        except PacketError as error:
            self._lost = f"broker {self.place} sent {error}"
            return
        for ack in acks:
            if ack[0] != SUBACK:
                self.acks.append(ack)
            else:
                self._take_suback(ack[1], ack[2])
        unasked = len(acks)
        for message in messages:
            unasked += not self.on_message(message)
            if message.packet_id is not None:
                self._rest += puback(message.packet_id)
        if not self._allowance.spend(unasked):
            self._lost = f"broker {self.place} sent {_TOO_MUCH}"
        elif others:
            self._take_others(client, tap, others)

    def _take_others(self, client: paho.Client, tap: Tap, packets: bytes) -> None:
        ends = reason_in(packets) if self._v5 else None
        if ends is not None and ends >= FAILURE:  # not for paho, which knows none but the listed ones
            if self._connected_at is None:
                raise self._refused(ends)
            self._closed_by_broker(ends)
            return
        tap.give(packets)
        while tap.holds_packets() and client.socket() is not None and self._lost is None:
            if not self._allowance.spend(1):
                self._lost = f"broker {self.place} sent {_TOO_MUCH}"
                return
            try:
                client.loop_read()
            except Exception as error:  # noqa: BLE001 paho raises whatever it meets in a packet
                self._lost = f"broker {self.place} sent a packet that cannot be read: {error!r}"

    def _take_suback(self, packet_id: int, reason: int) -> None:
        topic_filter = self._subscribed.pop(packet_id, None)
        if topic_filter is None:
            return
        self.open_filters = max(0, self.open_filters - 1)
        if reason >= FAILURE:
            self.refused_filters.add(topic_filter)
            telemetry.mqtt_subscription_refused(self.place, topic_filter, name_of(reason))

    def _connect_properties(self) -> Properties | None:
        """So that the broker sends no message that is too large for this bridge (MQTT 5, 3.1.2.11.4)."""
        if not self._v5:
            return None
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has no types for it
        properties.MaximumPacketSize = MAX_PUBLISH_BYTES
        return properties

    def _raise_if_lost(self) -> None:
        if self._lost is None:
            return
        if self._connected_at is not None:
            brief = time.monotonic() - self._connected_at < _BRIEF_SECONDS
            self._brief = self._brief + 1 if brief else 0
            self._connected_at = None
        text = self._lost
        if self._lost_reason == TAKEN_OVER or (self._brief > 1 and self._lost_reason in CLOSED_BY_BROKER):
            text = f"{text}: another client may use client_id {self.client_id!r}; set client_id to one of its own"
        raise NotConnected(text, reason=self._lost_reason)

    def _closed_by_broker(self, reason: int) -> None:
        self._lost = f"connection to broker {self.place} closed by the broker: {name_of(reason)}"
        self._lost_reason = label_of(reason)

    def _raise_if_refused(self, connack: ReasonCode) -> None:
        if connack.is_failure:
            self.close(0)
            raise self._refused(connack.value)

    def _refused(self, reason: int) -> NotConnected:
        return NotConnected(
            f"broker {self.place} refused the connection: {name_of(reason)} (user {self._options.username!r})",
            reason="refused_connection",
        )

    # --- paho ----------------------------------------------------------------------------------------------------

    def _new_client(self) -> paho.Client:
        options = self._options
        websockets = self._url.scheme in {"ws", "wss"}
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if self._v5 else MQTTProtocolVersion.MQTTv311,
            transport="websockets" if websockets else "tcp",
            reconnect_on_failure=False,
            clean_session=None if self._v5 else True,
        )
        if websockets:
            client.ws_set_options(path=self._ws_path)
        if self._url.scheme in {"mqtts", "wss"}:
            try:
                context = self._context()
                context.sslsocket_class = _ClosingSocket
                client.tls_set_context(context)
            except OSError as error:
                raise NotConnected(
                    f"cannot load the TLS files of broker {self.place}: {error}", reason="tls"
                ) from error
        if options.username is not None:
            client.username_pw_set(options.username, secret_of(options, "password"))
        if self.will is not None:
            client.will_set(self.will.topic, self.will.payload, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        return client

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, reason: ReasonCode, properties: Any) -> None:
        self._connack = reason
        self.receive_maximum = getattr(properties, "ReceiveMaximum", None)
        self.max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
        self.max_qos = getattr(properties, "MaximumQoS", 2)
        self.retains = bool(getattr(properties, "RetainAvailable", 1))

    def _on_disconnect(self, _client: Any, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        self._lost = f"connection to broker {self.place} lost: {reason}"

    @property
    def _ws_path(self) -> str:
        return (self._url.path or "/mqtt") + (f"?{self._url.query}" if self._url.query else "")

    def _context(self) -> ssl.SSLContext:
        return self._options.tls.context()

    def _try_upgrade(self, timeout_seconds: float) -> None:
        """Asks for the websocket on a connection of its own: paho does not say why a server refuses, and leaves its
        socket open then.

        Raises:
            NotConnected: the server does not upgrade.
            OSError: it can't be reached.

        """
        arguments: dict[str, Any] = {"timeout": max(0.1, timeout_seconds)}
        connection = (
            http.client.HTTPSConnection(self._host, self._port, context=self._context(), **arguments)
            if self._url.scheme == "wss"
            else http.client.HTTPConnection(self._host, self._port, **arguments)
        )
        connection.response_class = FinalResponse
        try:
            connection.request("GET", self._ws_path, headers=_UPGRADE)
            status = connection.getresponse().status
        except http.client.HTTPException:
            status = 0
        finally:
            connection.close()
        if status == HTTPStatus.SWITCHING_PROTOCOLS:
            return
        answer = f": it answers {status}" if status else ""
        remedy = "what it asks for in the query" if status in {401, 403} else "the path of the broker's websocket"
        raise NotConnected(
            f"{self.place} does not upgrade to a websocket{answer}; set url to {remedy}", reason="unreachable"
        )

    def _explain(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            hint = strict_certificate_hint(error) or "set tls.ca_file to the PEM file of its authority"
            return f"certificate of broker {self.place} not trusted: {error.verify_message}; {hint}"
        if isinstance(error, TimeoutError):
            return f"no connection to broker {self.place} in time"
        return f"cannot connect to broker {self.place}: {getattr(error, 'strerror', None) or error}"


class _ClosingSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails, where paho would leave it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise
