"""A hook for the JSON plugin of Apprise that does as the script says. Each message names all its events."""

import orjson

from meshbridge.sinks.base import Sink
from meshbridge.sinks.notify import NotifyOptions
from tests.contract.sinks.far_end import SECRETS, Say
from tests.contract.sinks.far_webhook import WebhookFarEnd
from tests.contract.sinks.http_server import Exchange


class NotifyFarEnd(WebhookFarEnd):
    # Which interim answers Apprise's HTTP client takes is its own; a service has no way to end a sink.
    says = frozenset({Say.OK, Say.BUSY, Say.REFUSE, Say.DENY, Say.SILENT, Say.CUT})

    def sink(self) -> Sink:
        settings = {
            "type": "notify",
            "url": self.server.url.replace("http:", "json:").replace("/hook", f"/{SECRETS[3]}"),
            "when": {"events": ["stdout"]},
            "group_wait": 0,
            "max_per_hour": 100_000,
            "body": "{% for one in events %}{{ one.id }}\n{% endfor %}",
        }
        return NotifyOptions.model_validate(settings).build("people", self._directory)

    def meet(self, exchange: Exchange) -> None:
        ids = orjson.loads(exchange.request.body)["message"].split()
        say = self.script.answer(ids)
        if say is Say.OK:
            with self._lock:
                self._taken += ids
            exchange.answer(204)
        else:
            self.do(say, exchange)
