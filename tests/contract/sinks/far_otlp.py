"""An OTLP/HTTP receiver for logs, held to the protocol by ``opentelemetry-proto``, that does as the script says."""

import gzip

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from meshbridge.sinks.base import Sink
from meshbridge.sinks.otlp import OtlpOptions
from tests.contract.sinks.far_end import SECRETS, Say
from tests.contract.sinks.far_webhook import WebhookFarEnd, interim
from tests.contract.sinks.http_server import Exchange, Request

PROTOBUF = "application/x-protobuf"


class OtlpFarEnd(WebhookFarEnd):
    received: list[ExportLogsServiceRequest]

    def sink(self) -> Sink:
        self.received = []
        settings = {"type": "otlp", "url": self.server.url.removesuffix("/hook"), "auth": {"bearer": SECRETS[0]}}
        return OtlpOptions.model_validate(settings | self.settings).build("otlp", self._directory)

    def meet(self, exchange: Exchange) -> None:
        message = decoded(exchange.request)
        ids = ids_of(message)
        say = self.script.answer(ids)
        if say is Say.INTERIM:
            interim(exchange)
        if say in {Say.OK, Say.INTERIM}:
            with self._lock:
                self._taken += ids
                self.received.append(message)
            exchange.answer(200, {"Content-Type": PROTOBUF}, ExportLogsServiceResponse().SerializeToString())
        elif say is Say.REFUSE:
            answer = ExportLogsServiceResponse()
            answer.partial_success.rejected_log_records = len(ids)
            answer.partial_success.error_message = "record too old"
            exchange.answer(200, {"Content-Type": PROTOBUF}, answer.SerializeToString())
        else:
            self.do(say, exchange)


def decoded(request: Request) -> ExportLogsServiceRequest:
    assert (request.method, request.path) == ("POST", "/v1/logs")
    assert request.headers["content-type"] == PROTOBUF
    body = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
    message: ExportLogsServiceRequest = ExportLogsServiceRequest.FromString(body)
    return message


def ids_of(message: ExportLogsServiceRequest) -> list[str]:
    """The events of a request, in the order of each resource."""
    found = [
        attribute.value.string_value
        for resource in message.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
        for attribute in record.attributes
        if attribute.key == "cloudevents.event_id"
    ]
    return list(dict.fromkeys(found))
