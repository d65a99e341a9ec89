"""Requests meant for another node (``X-Target-Host``): to emulators of the same process, never over the network."""

import asyncio
from collections.abc import Awaitable, Callable

from meshbridge.appmesh.tcp_messages import RequestMessage
from meshbridge.emulator.messages import EmulatedAnswer, json_answer

Forward = Callable[[RequestMessage], Awaitable[EmulatedAnswer]]


class Neighbours:
    """The nodes that this one knows, by their names and by ``host:port`` of their listeners."""

    def __init__(self) -> None:
        self._nodes: dict[str, Forward] = {}
        self._own: set[str] = set()

    def own(self, names: set[str]) -> None:
        self._own = names

    def add(self, names: set[str], forward: Forward) -> None:
        self._nodes.update(dict.fromkeys(names, forward))

    async def forward(self, target: str, request: RequestMessage) -> EmulatedAnswer:
        """The answer of the node at ``target``.

        A node asked to forward to itself never answers (measured); the wait ends with the client's connection.
        """
        if target in self._own:
            await asyncio.Event().wait()
        node = self._nodes.get(target)
        if node is None:
            return json_answer("Failed to connect to forwarding host", 502)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "x-target-host"}
        return await node(
            RequestMessage(
                request.uuid,
                request.request_uri,
                request.http_method,
                request.client_addr,
                request.body,
                headers,
                request.query,
            )
        )
