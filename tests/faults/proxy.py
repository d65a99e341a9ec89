"""A TCP proxy on loopback that does to connections what networks do: cuts, holes, delays, ends that only one side sees.

It forwards bytes and knows nothing of them, so TLS goes through as it is.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self, TypeVar

Value = TypeVar("Value")
Address = tuple[str, int]

_BLOCK = 16 * 1024


class _Pair:
    """One client's connection and its other half to the target. In the loop's thread only."""

    def __init__(self, client: asyncio.StreamWriter, target: asyncio.StreamWriter | None) -> None:
        self.client = client
        self.target = target
        self.doomed = False  # bytes of it were lost: nothing good can come of it any more
        self.allowance: int | None = None  # bytes for the client before it is cut

    def end(self, *, reset: bool) -> None:
        for writer in (self.client, self.target):
            if writer is not None:
                _end(writer, reset=reset)


def _end(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        sock: socket.socket | None = writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Proxy:
    """Listens on a port of the kernel's choice and forwards to :attr:`target`. Its methods may be called by any thread.

    Threads: one, with an event loop that owns all connections.
    """

    def __init__(self, target: Address) -> None:
        self.target = target
        self.address: Address = ("127.0.0.1", 0)
        self.connections = 0  # made so far
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._hole = False
        self._delay_seconds = 0.0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    # --- faults ------------------------------------------------------------------------------------------------------

    def cut(self, *, reset: bool = True) -> None:
        """Ends all connections, by a reset or in good order (without an end of the TLS stream)."""

        def end() -> None:
            for pair in self._pairs:
                pair.end(reset=reset)

        self._call(end)

    def cut_after(self, size: int) -> None:
        """Ends each connection once so many more bytes have come from the target: in the middle of a frame."""

        def limit() -> None:
            for pair in self._pairs:
                pair.allowance = size

        self._call(limit)

    def black_hole(self) -> None:
        """From now on bytes vanish, either way; new connections are made, without an answer."""

        def open_hole() -> None:
            self._hole = True
            for pair in self._pairs:
                pair.doomed = True

        self._call(open_hole)

    def half_open(self) -> None:
        """The target sees its connections end; the clients see nothing of it."""

        def end_targets() -> None:
            for pair in self._pairs:
                pair.doomed = True
                if pair.target is not None:
                    _end(pair.target, reset=True)

        self._call(end_targets)

    def delay(self, seconds: float) -> None:
        """Each block takes so long, either way."""
        self._call(lambda: setattr(self, "_delay_seconds", seconds))

    def stall(self) -> None:
        """Reads nothing from either side, and loses nothing: as if the host were asleep."""
        self._call(self._flowing.clear)

    def heal(self) -> None:
        """All is well from now on, save for connections that have lost bytes: those end when their client gives up."""

        def heal() -> None:
            self._hole, self._delay_seconds = False, 0.0
            self._flowing.set()

        self._call(heal)

    # --- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _call(self, action: Callable[[], Value]) -> Value:
        async def call() -> Value:
            return action()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    # --- in the loop's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, *self.address))
        self.address = server.sockets[0].getsockname()[:2]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for pair in list(self._pairs):
            pair.end(reset=True)
        tasks = [task for task in asyncio.all_tasks(self._loop) if not task.done()]
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.connections += 1
        pair = _Pair(client, None)
        pair.doomed = self._hole
        self._pairs.add(pair)
        try:
            if self._hole:
                while await reader.read(_BLOCK):
                    pass
                return
            from_target, pair.target = await asyncio.open_connection(*self.target)
            pumps = [
                asyncio.create_task(self._pump(reader, pair.target, pair, to_client=False)),
                asyncio.create_task(self._pump(from_target, client, pair, to_client=True)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if pair.doomed:  # the target's end is not the client's
                await asyncio.wait(pumps[:1])
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass
        finally:
            pair.end(reset=False)
            self._pairs.discard(pair)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: _Pair, *, to_client: bool
    ) -> None:
        while True:
            await self._flowing.wait()
            try:
                data = await reader.read(_BLOCK)
            except OSError:
                return
            if not data:
                return
            if pair.doomed:
                continue
            if self._delay_seconds:
                await asyncio.sleep(self._delay_seconds)
            if to_client and pair.allowance is not None:
                data = data[: pair.allowance]
                pair.allowance -= len(data)
            await self._flowing.wait()
            try:
                writer.write(data)
                await writer.drain()
            except OSError:
                return
            if to_client and pair.allowance == 0:
                return
