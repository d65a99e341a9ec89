"""Answers that are sent as they come, and what ends them: the caller disconnects, or stops reading."""

import contextlib
from collections.abc import AsyncGenerator

import anyio
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

__all__ = ["STALLED_SECONDS", "BrokenOffError", "Streamed"]

STALLED_SECONDS = 60.0  # a caller that neither reads nor sends for so long is disconnected


class BrokenOffError(Exception):
    """There is no more of what was to be sent, and it is not whole."""


class Streamed(StreamingResponse):
    """Sends what a generator gives, and closes it, however that ends.

    Where the caller reads nothing for :data:`STALLED_SECONDS`, or the generator raises :class:`BrokenOffError`, the
    answer is not completed: the connection is closed, so that half an answer is not taken for a whole one.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes],
        held: contextlib.AsyncExitStack,
        *,
        headers: dict[str, str] | None = None,
        media_type: str,
    ) -> None:
        super().__init__(chunks, headers=headers, media_type=media_type)
        self._chunks = chunks
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._chunks.aclose()
                await self._held.aclose()

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        with contextlib.suppress(BrokenOffError):
            async for chunk in self._chunks:
                with anyio.move_on_after(STALLED_SECONDS) as sending:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                if sending.cancelled_caught:
                    return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
