"""A run started with ``run_app_async``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from meshbridge.appmesh.run_output import RunOutput

if TYPE_CHECKING:
    from meshbridge.appmesh.client_http import AppMeshClient

__all__ = ["AppRun", "OutputHandler", "print_output_handler"]

OutputHandler = Callable[[str, int], None] | None
"""Called with each piece of output and the position of its first byte; None: no handler."""


def print_output_handler(data: str, position: int) -> None:  # noqa: ARG001 an OutputHandler gets the position too
    """An :data:`OutputHandler` that prints."""
    print(data, end="", flush=True)  # noqa: T201 it is what it is for


class AppRun:
    """A process that a daemon runs for this client.

    It remembers where its client forwarded to when it was started, and is waited for there, wherever the client
    forwards to by then.
    """

    def __init__(self, client: "AppMeshClient", app_name: str, process_id: str) -> None:
        self.app_name = app_name
        """The generated name under which the daemon lists the run."""
        self.proc_uid = process_id
        self._client = client
        self._forward_to = client.forward_to

    @property
    def process_uuid(self) -> str:
        """As ``proc_uid``, by its name in the SDK of 3.x."""
        return self.proc_uid

    @contextmanager
    def forward_to(self) -> Iterator[None]:
        """While it lasts, this thread's requests go where the run is; those of other threads are left alone."""
        with self._client.using(forward_to=self._forward_to):
            yield

    def reader(self, handler: OutputHandler, position: int = 0) -> RunOutput:
        """Reads its output piece by piece from ``position`` on; the run stays at the daemon.

        Inside :meth:`forward_to`, each ``read()`` hands what there is to ``handler``, and ``exit_code`` is known at the
        end.
        """
        output = self._client._run_output(self, handler)  # noqa: SLF001 a handle of this client
        output.position = position
        return output

    def wait(self, stdout_handler: OutputHandler = None, timeout: int = 0) -> int | None:
        """Waits for the end and gives the exit code: ``wait_for_async_run`` of the client that started the run.

        ``timeout`` is in seconds, 0 for ever. None means that it passed, or that the daemon does not know the run.
        """
        return self._client.wait_for_async_run(self, stdout_handler, timeout)
