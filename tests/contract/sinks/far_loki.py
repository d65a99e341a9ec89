"""Loki's push endpoint, held to its documented API, that does as the script says."""

from typing import Any

import orjson

from meshbridge.sinks.base import Sink
from meshbridge.sinks.loki import LokiOptions
from tests.contract.sinks.far_end import SECRETS, Say
from tests.contract.sinks.far_webhook import WebhookFarEnd, interim
from tests.contract.sinks.http_server import Exchange, Request


class LokiFarEnd(WebhookFarEnd):
    entries: list[tuple[dict[str, str], int, str, dict[str, str]]]

    def sink(self) -> Sink:
        self.entries = []
        settings = {"type": "loki", "url": self.server.url.removesuffix("/hook"), "auth": {"bearer": SECRETS[0]}}
        return LokiOptions.model_validate(settings | self.settings).build("logs", self._directory)

    def meet(self, exchange: Exchange) -> None:
        try:
            entries = entries_of(exchange.request)
        except AssertionError as error:
            exchange.answer(400, body=str(error).encode())
            raise
        ids = list(dict.fromkeys(entry[3]["id"] for entry in entries))
        say = self.script.answer(ids)
        if say is Say.INTERIM:
            interim(exchange)
        if say in {Say.OK, Say.INTERIM}:
            with self._lock:
                self._taken += ids
                self.entries += entries
            exchange.answer(204)
        else:
            self.do(say, exchange)


def entries_of(request: Request) -> list[tuple[dict[str, str], int, str, dict[str, str]]]:
    """The entries of a push, as Loki's HTTP API has them ('Ingest logs'): labels, time, line, structured metadata."""
    assert (request.method, request.path) == ("POST", "/loki/api/v1/push")
    assert request.headers["content-type"] == "application/json"
    body: dict[str, Any] = orjson.loads(request.body)
    assert list(body) == ["streams"]
    entries = []
    for stream in body["streams"]:
        assert set(stream) == {"stream", "values"}
        labels = stream["stream"]
        assert labels
        assert all(isinstance(value, str) for value in labels.values())
        assert all(name.isidentifier() for name in labels)
        for value in stream["values"]:
            moment, line, metadata = value
            assert isinstance(moment, str), "a time is a string of nanoseconds"
            assert isinstance(line, str)
            assert all(isinstance(text, str) for text in metadata.values()), "structured metadata are strings"
            entries.append((labels, int(moment), line, metadata))
    return entries
