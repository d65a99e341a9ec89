"""What ``get_app_output`` gives."""

from dataclasses import dataclass
from http import HTTPStatus

__all__ = ["AppOutput"]


@dataclass
class AppOutput:
    """A piece of an application's output, stderr included."""

    status_code: HTTPStatus
    """200, or why there is nothing: 417 for output that is not kept (any more), 404 for no such application."""
    output: str
    """The text; bytes that are no UTF-8 are U+FFFD. With another status than 200: the daemon's message."""
    out_position: int | None
    """Where the next read goes on, in bytes; None where the daemon did not say."""
    exit_code: int | None
    """Of the process, once it has ended; else None."""

    @property
    def output_position(self) -> int | None:
        """As :attr:`out_position`, by its name in the SDK of 3.x."""
        return self.out_position
