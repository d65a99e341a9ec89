"""How the MQTT sink takes a broker's refusals: against a real mosquitto, and one that says what no real one does."""

import socket
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from meshbridge.link.app_state import AppState
from meshbridge.model.events import Envelope
from meshbridge.sinks.base import NotConnected, Refused, Retry, SinkError
from meshbridge.sinks.mqtt.sink import MqttOptions, MqttSink
from tests.contract.sinks.http_server import Exchange, HttpServer
from tests.contract.sinks.socket_server import SocketServer, exactly
from tests.support import Mosquitto, Subscriber, envelopes, make_event, wait_for
from tests.unit.state_table import States

SECONDS = 5.0
LISTED = AppState("web", status="enabled", health=0, running=True, pid=7, starts=2, started_at=5, registered_at=4)


def sink_for(url: str, states: States | None = None, **options: object) -> MqttSink:
    sink = MqttSink(MqttOptions.model_validate({"type": "mqtt", "url": url} | options), "meshbridge-test")
    if states is not None:
        sink.tell_states(states)
    return sink


def output(number: int, size: int) -> Any:
    return make_event(number, data={"finished": False, "output": "0123456789" * (size // 10), "position": 0})


def deliver(sink: MqttSink, batch: list[Envelope], attempts: int = 12) -> list[str]:
    """As a courier does; the ids of dead letters."""
    dead: list[str] = []
    offer = len(batch)
    connected = False
    for _ in range(attempts):
        if not batch:
            return dead
        try:
            if not connected:
                sink.connect(SECONDS)
                connected = True
            sink.write(batch[:offer], SECONDS)
            batch = batch[offer:]
            offer = len(batch)
        except SinkError as error:
            batch, offer = batch[error.acknowledged :], max(1, offer - error.acknowledged)
            connected = connected and not isinstance(error, NotConnected)
            if isinstance(error, Refused) and offer == 1:
                dead.append(batch.pop(0).event.id)
                offer = len(batch)
            elif isinstance(error, Refused):
                offer //= 2
    raise AssertionError(f"{len(batch)} events are left after {attempts} attempts")


def _number(event_id: str) -> int:
    return int(event_id.rpartition("/")[2])


BROKERS = [("5", "message_size_limit 4000\n"), ("5", "max_packet_size 4000\n"), ("3.1.1", "max_packet_size 4000\n")]


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize(("protocol", "limit"), BROKERS)
def test_output_that_the_broker_finds_too_large_is_divided(tmp_path: Path, protocol: str, limit: str) -> None:
    events = [output(1, 100), output(2, 9000), output(3, 50), output(4, 20_000), output(5, 10)]
    with Mosquitto(tmp_path / "broker", limit) as broker, Subscriber(broker.port) as subscriber:
        sink = sink_for(broker.url, protocol=protocol)
        assert deliver(sink, envelopes(events)) == []
        sink.close(2)

        def arrived() -> list[str]:
            parts: dict[str, str] = {}
            for event in subscriber.events():
                parts.setdefault(event["id"], event["data"]["output"])
            own = [[key for key in parts if key == one.id or key.startswith(f"{one.id}/")] for one in events]
            return ["".join(parts[key] for key in sorted(keys, key=_number)) for keys in own]

        wait_for(lambda: arrived() == [orjson.loads(event.data)["output"] for event in events], "all of the output")


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize(("protocol", "limit"), BROKERS)
def test_another_event_that_is_too_large_is_a_dead_letter_and_the_rest_goes_on(
    tmp_path: Path, protocol: str, limit: str
) -> None:
    large = make_event(3, "EXIT", data={"exit_code": 1, "last_error": "x" * 9000})
    events = [output(1, 100), output(2, 100), large, output(4, 100), output(5, 100)]
    with Mosquitto(tmp_path / "broker", limit) as broker, Subscriber(broker.port) as subscriber:
        sink = sink_for(broker.url, protocol=protocol)
        assert deliver(sink, envelopes(events)) == [large.id]
        sink.close(2)
        wait_for(lambda: len({event["id"] for event in subscriber.events()}) == 4, "the others")


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize(
    ("protocol", "limit"), [("5", "message_size_limit 1500\n"), ("3.1.1", "max_packet_size 1500\n")]
)
def test_a_retained_topic_that_is_too_large_is_named_once_and_nothing_waits_for_it(
    tmp_path: Path, protocol: str, limit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    states = States()
    states.put("web", LISTED)
    with Mosquitto(tmp_path / "broker", limit) as broker, Subscriber(broker.port, retained=True) as subscriber:
        sink = sink_for(broker.url, states, protocol=protocol, home_assistant=True)
        assert deliver(sink, envelopes([output(number, 100) for number in range(1, 6)])) == []
        for _ in range(3):
            sink.idle()
        wait_for(
            lambda: [one for one in subscriber.messages if one.topic == "meshbridge/node-a/web/state"], "the state"
        )
        wait_for(lambda: len({m.payload for m in subscriber.messages if m.topic.endswith("stdout")}) == 5, "the events")
        sink.close(2)
    logged = [line for line in capsys.readouterr().out.splitlines() if "retained topic refused" in line]
    assert len(logged) == 1
    assert "homeassistant/device/meshbridge_node-a_web/config" in logged[0]


RULES = "topic write meshbridge/node-a/web/#\ntopic read #\n"


@pytest.mark.needs("mosquitto")
def test_a_topic_that_is_denied_for_long_makes_dead_letters_of_its_own_events_alone(tmp_path: Path) -> None:
    (tmp_path / "acl").write_text(RULES)
    (tmp_path / "acl").chmod(0o644)
    tmp_path.chmod(0o755)
    batch = envelopes([make_event(n, app="db" if n in {2, 4} else "web") for n in range(1, 6)])
    with Mosquitto(tmp_path / "broker", f"acl_file {tmp_path / 'acl'}\nuser root\n") as broker:
        sink = sink_for(broker.url, denied_wait="200ms")
        sink.connect(SECONDS)
        with pytest.raises(Retry, match=r"Not authorized \(topic meshbridge/node-a/db/stdout\); allow it") as waits:
            sink.write(batch, SECONDS)
        assert waits.value.acknowledged == 1

        def dead(rest: list[Envelope]) -> Refused | None:
            try:
                sink.write(rest, SECONDS)
            except Refused as refused:
                return refused
            except Retry:
                pass
            return None

        refused = wait_for(lambda: dead(batch[1:]), "the end of the wait")
        assert refused is not None
        assert refused.acknowledged == 0
        with pytest.raises(Refused, match="dead-letters retry") as second:  # without another wait
            sink.write(batch[2:], SECONDS)
        assert second.value.acknowledged == 1
        sink.write(batch[4:], SECONDS)
        at_once = sink_for(broker.url, on_denied="dead-letter")
        at_once.connect(SECONDS)
        with pytest.raises(Refused):
            at_once.write(batch, SECONDS)
        at_once.close(2)
        sink.close(2)


def answering(packet: bytes, on: int) -> SocketServer:
    """A broker that takes a connection and answers packets of one type with this; ``ID`` stands for the packet id."""

    def serve(sock: socket.socket) -> None:
        while True:
            kind = exactly(sock, 1)[0] >> 4
            length = shift = 0
            while (byte := exactly(sock, 1)[0]) & 0x80:
                length |= (byte & 0x7F) << shift
                shift += 7
            length |= byte << shift
            body = exactly(sock, length)
            place = 2 + int.from_bytes(body[:2], "big")
            identifier = body[:2] if kind == 8 else body[place : place + 2]
            if kind == on:
                sock.sendall(packet.replace(b"ID", identifier))
            elif kind == 1:
                sock.sendall(bytes([0x20, 3, 0, 0, 0]))

    server = SocketServer(serve)
    server.start()
    return server


@pytest.mark.parametrize("code", [0x80, 0x83, 0x88, 0x95, 0x97, 0x9A, 0xA2, 0xC1, 0xFF])
def test_any_reason_code_of_an_acknowledgement_is_taken(code: int) -> None:
    server = answering(b"\x40\x03ID" + bytes([code]), on=3)
    sink = sink_for(f"mqtt://127.0.0.1:{server.port}")
    try:
        sink.connect(SECONDS)
        with pytest.raises(Refused if code == 0x95 else Retry) as caught:
            sink.write(envelopes([make_event(1)]), SECONDS)
        assert caught.value.acknowledged == 0
        sink.close(0)
    finally:
        server.stop()


@pytest.mark.parametrize("code", [0x80, 0x95, 0xC1, 0xFF])
@pytest.mark.parametrize("packet", ["connack", "disconnect"])
def test_any_reason_code_that_ends_a_connection_is_taken(code: int, packet: str) -> None:
    ends = {"connack": (bytes([0x20, 3, 0, code, 0]), 1), "disconnect": (bytes([0xE0, 1, code]), 3)}
    server = answering(*ends[packet])
    sink = sink_for(f"mqtt://127.0.0.1:{server.port}")
    try:
        with pytest.raises(NotConnected, match=r"Unspecified error|Packet too large|Reason code 0x(C1|FF)"):
            sink.connect(SECONDS)
            sink.write(envelopes([make_event(1)]), SECONDS)
        sink.close(0)
    finally:
        server.stop()


def test_any_reason_code_of_a_subscription_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    server = answering(b"\x90\x04ID\x00\xc1", on=8)
    sink = sink_for(f"mqtt://127.0.0.1:{server.port}", States(), home_assistant=True)
    try:
        sink.connect(SECONDS)

        def named() -> bool:
            sink.idle()
            return "subscription refused" in capsys.readouterr().out

        wait_for(named, "the log line")
        sink.close(0)
    finally:
        server.stop()


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_two_clients_with_one_client_id_are_named(tmp_path: Path, protocol: str) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        one, other = (sink_for(broker.url, protocol=protocol) for _ in range(2))
        one.connect(SECONDS)
        said = ""
        for _ in range(2):
            other.connect(SECONDS)

            def lost(sink: MqttSink = one) -> str:
                try:
                    sink.idle()
                except NotConnected as error:
                    return str(error)
                return ""

            said = wait_for(lost, "the end of the first connection")
            one.connect(SECONDS)
        assert "set client_id to one of its own" in said
        one.close(0)
        other.close(0)


@pytest.mark.parametrize(("status", "hint"), [(403, "what it asks for in the query"), (404, "the path of the broker")])
def test_the_query_of_a_websocket_is_sent_and_a_refused_upgrade_tells_the_status(status: int, hint: str) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.answer(status)
        exchange.cut()

    with HttpServer(answer) as server:
        sink = sink_for(f"ws://127.0.0.1:{server.port}/mqtt?token=abc")
        with pytest.raises(NotConnected, match=f"it answers {status}; set url to {hint}") as caught:
            sink.connect(SECONDS)
        assert {request.path for request in server.requests} == {"/mqtt?token=abc"}
        assert "abc" not in str(caught.value)


@pytest.mark.parametrize("url", ["mqtt://h/path", "mqtts://h?token=secret", "ws://h/mqtt#part"])
def test_a_part_of_the_url_that_would_have_no_effect_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="have no path and no query"):
        MqttOptions.model_validate({"type": "mqtt", "url": url})


def test_the_query_is_not_shown() -> None:
    options = MqttOptions.model_validate({"type": "mqtt", "url": "wss://h/mqtt?token=abc"})
    assert options.model_dump(mode="json")["url"] == "wss://h/mqtt?…"
