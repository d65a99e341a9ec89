"""A web hook that does as the script says."""

import threading
from pathlib import Path
from typing import Any

import orjson

from meshbridge.sinks.base import Sink
from meshbridge.sinks.webhook import WebhookOptions
from tests.contract.sinks.far_end import SECRETS, Say, Script
from tests.contract.sinks.http_server import Exchange, HttpServer


class WebhookFarEnd:
    says = frozenset(Say)
    keeps_first_order = True
    settings: dict[str, Any] = {}  # noqa: RUF012 further ones, of a subclass

    def __init__(self, directory: Path) -> None:
        self.script = Script()
        self.server = HttpServer(self.meet)
        self._directory = directory
        self._taken: list[str] = []
        self._lock = threading.Lock()  # guards _taken

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def options(self) -> WebhookOptions:
        bearer, password, header, path = SECRETS
        del password
        return WebhookOptions.model_validate(
            {
                "type": "webhook",
                "url": f"{self.server.url}/{path}",
                "auth": {"bearer": bearer},
                "headers": {"X-Key": header},
                **self.settings,
            }
        )

    def sink(self) -> Sink:
        return self.options().build("hook", self._directory)

    def close(self) -> None:
        pass

    def arrived(self) -> list[str]:
        with self._lock:
            return list(self._taken)

    def meet(self, exchange: Exchange) -> None:
        body = orjson.loads(exchange.request.body)
        ids = [event["id"] for event in (body if isinstance(body, list) else [body])]
        say = self.script.answer(ids)
        if say is Say.INTERIM:
            interim(exchange)
        if say in {Say.OK, Say.INTERIM}:
            with self._lock:
                self._taken += ids
            exchange.answer(204)
        else:
            self.do(say, exchange)

    def do(self, say: Say, exchange: Exchange) -> None:
        if say is Say.BUSY:
            exchange.answer(429, {"Retry-After": "2"})
        elif say is Say.REFUSE:
            exchange.answer(422, body=b"no")
        elif say is Say.DENY:
            exchange.answer(403, {"Content-Encoding": "gzip"}, b"\x1f\x8b\x08")
        elif say is Say.GONE:
            exchange.answer(410)
        elif say is Say.SILENT:
            exchange.hold()
        else:
            exchange.cut()


def interim(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")


class BatchWebhookFarEnd(WebhookFarEnd):
    settings = {"batch": {"max_events": 100, "max_wait": "1s"}}  # noqa: RUF012
