"""The otlp sink, its requests decoded by ``opentelemetry-proto``."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from meshbridge.model.events import Event, gap
from meshbridge.sinks.base import NotConnected, Refused, Retry
from meshbridge.sinks.otlp import OtlpOptions, OtlpSink
from tests.contract.sinks.far_otlp import PROTOBUF, decoded, ids_of
from tests.contract.sinks.http_server import Exchange, HttpServer
from tests.support import envelopes, free_port, make_event

SECONDS = 5.0


class Receiver:
    def __init__(self) -> None:
        self.requests: list[ExportLogsServiceRequest] = []
        self.answer = ExportLogsServiceResponse()
        self.status = 200
        self.body: bytes | None = None
        self.server = HttpServer(self._meet)

    def _meet(self, exchange: Exchange) -> None:
        if exchange.request.method == "OPTIONS":
            exchange.answer(405)
            return
        self.requests.append(decoded(exchange.request))
        body = self.answer.SerializeToString() if self.body is None else self.body
        exchange.answer(self.status, {"Content-Type": PROTOBUF if self.body is None else "text/plain"}, body)

    def options(self, **settings: Any) -> OtlpOptions:
        url = f"http://127.0.0.1:{self.server.port}"
        return OtlpOptions.model_validate({"type": "otlp", "url": url} | settings)

    def sink(self, **settings: Any) -> OtlpSink:
        return self.options(**settings).build("otlp", None)  # type: ignore[arg-type]

    def records(self) -> list[dict[str, Any]]:
        """Each with its resource's attributes, as plain values."""
        return [
            record
            | {
                "resource": plain(MessageToDict(resource.resource).get("attributes", [])),
                "attributes": plain(record["attributes"]),
            }
            for request in self.requests
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in map(MessageToDict, scope.log_records)
        ]


def plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in attributes}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    with made.server:
        yield made


def write(sink: OtlpSink, *events: Event) -> None:
    sink.connect(SECONDS)
    try:
        sink.write(envelopes(list(events)), SECONDS)
    finally:
        sink.close(SECONDS)


def test_a_record_has_the_semantic_conventions_attributes(receiver: Receiver) -> None:
    start = make_event(1, "START", data={"pid": 4711, "process_uuid": "u-1"})
    write(receiver.sink(resource={"deployment.environment.name": "prod"}), start)
    [record] = receiver.records()
    assert record["resource"] == {
        "deployment.environment.name": "prod",
        "host.name": "node-a",
        "appmesh.daemon": "node-a",
        "service.name": "web",
        "service.instance.id": "u-1",
    }
    assert record["eventName"] == "io.appmesh.app.start"
    assert record["attributes"]["cloudevents.event_id"] == "node-a/1/1"
    assert record["severityText"] == "INFO"
    assert plain(record["body"]["kvlistValue"]["values"]) == {"pid": "4711", "process_uuid": "u-1"}
    assert int(record["timeUnixNano"]) // 10**9 == 1795515820


def test_each_line_of_output_is_a_record_in_order(receiver: Receiver) -> None:
    data = {"finished": False, "output": "one\r\n\ntwo ü", "position": 0}
    write(receiver.sink(), make_event(1, data=data), make_event(2, data=data | {"output": ""}), make_event(3))
    records = receiver.records()
    assert [record["body"].get("stringValue", "") for record in records] == ["one", "", "two ü", "line 3"]
    times = [int(record["timeUnixNano"]) for record in records]
    assert times == sorted(set(times))


@pytest.mark.parametrize(
    ("event", "severity"),
    [
        (make_event(1, "EXIT", data={"exit_code": 0}), "INFO"),
        (make_event(1, "EXIT", data={"exit_code": 3}), "ERROR"),
        (make_event(1, "EXIT", data={"exit_code": None}), "WARN"),
        (make_event(1, "HEALTH", data={"health": 1}), "WARN"),
        (make_event(1, "HEALTH", data={"health": 0}), "INFO"),
        (make_event(1, "REMOVED", data=None), "INFO"),
        (gap("node-a", "1", 3, 5, 1.0, reconciled=0), "WARN"),
    ],
)
def test_severity_follows_the_event(receiver: Receiver, event: Event, severity: str) -> None:
    write(receiver.sink(compression="none"), event)
    [record] = receiver.records()
    assert record["severityText"] == severity


def test_large_batches_are_several_requests_and_large_output_several_records(receiver: Receiver) -> None:
    data = {"finished": False, "output": "x" * 30_000, "position": 0}
    write(
        receiver.sink(max_body_bytes="64KiB", max_record_bytes="16KiB"),
        *(make_event(n, data=data) for n in range(1, 6)),
    )
    assert len(receiver.requests) > 2
    assert sum(len(record["body"]["stringValue"]) for record in receiver.records()) == 5 * 30_000
    assert all(len(record["body"]["stringValue"]) <= 16 * 1024 for record in receiver.records())


def test_a_partial_success_refuses_and_says_why(receiver: Receiver) -> None:
    receiver.answer.partial_success.rejected_log_records = 1
    receiver.answer.partial_success.error_message = "record too old"
    with pytest.raises(Refused, match="rejected 1 records: record too old") as caught:
        write(receiver.sink(), make_event(1), make_event(2))
    assert (caught.value.acknowledged, caught.value.reason) == (0, "partial_success")


def test_a_warning_without_rejected_records_is_a_success(receiver: Receiver) -> None:
    receiver.answer.partial_success.error_message = "attribute renamed"
    write(receiver.sink(), make_event(1))
    receiver.body = b"{not protobuf}"
    write(receiver.sink(), make_event(2))
    assert [one for request in receiver.requests for one in ids_of(request)] == ["node-a/1/1", "node-a/1/2"]


def test_no_output_of_an_app_is_repeated_in_an_error(receiver: Receiver) -> None:
    text = "a private text that an app has written to its output"
    receiver.status, receiver.body = 400, f"cannot take {text}".encode()
    with pytest.raises(Refused) as caught:
        write(receiver.sink(), make_event(1, data={"finished": False, "output": text, "position": 0}))
    assert "private" not in str(caught.value)
    receiver.status, receiver.body = 200, None
    receiver.answer.partial_success.rejected_log_records = 1
    receiver.answer.partial_success.error_message = f"cannot take {text}"
    with pytest.raises(Refused) as caught:
        write(receiver.sink(), make_event(1, data={"finished": False, "output": text, "position": 0}))
    assert "private" not in str(caught.value)


def test_what_cannot_be_divided_is_refused_behind_what_is_sent(receiver: Receiver) -> None:
    too_large = make_event(2, "EXIT", data={"last_error": "x" * 3000})
    with pytest.raises(Refused, match="cannot be divided") as caught:
        write(receiver.sink(max_record_bytes=1024), make_event(1), too_large, make_event(3))
    assert caught.value.acknowledged == 1
    assert [one for request in receiver.requests for one in ids_of(request)] == ["node-a/1/1"]


def test_check_sends_a_request_without_records(receiver: Receiver) -> None:
    assert "accepts OTLP logs" in receiver.options().probe(SECONDS).text
    assert receiver.records() == []
    receiver.status = 404
    with pytest.raises(Retry, match="set url"):
        receiver.options().probe(SECONDS)
    nowhere = OtlpOptions.model_validate({"type": "otlp", "url": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(NotConnected, match="cannot connect"):
        nowhere.probe(SECONDS)


def test_a_preview_is_readable(receiver: Receiver) -> None:
    [preview] = receiver.sink().preview(make_event(1))
    assert preview.to == "POST /v1/logs"
    assert b'"service.name"' in preview.body
