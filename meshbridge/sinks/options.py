"""The settings that every sink has."""

from typing import Literal

from pydantic import Field

from meshbridge.options import Batch, Format, Retry, SecretFiles, Selection
from meshbridge.sinks.base import NotConnected

__all__ = ["SinkOptions", "secret_of"]


class SinkOptions(Selection):
    """What the courier needs to know; each sink adds how to reach its far end."""

    format: Format = Field(default=Format.CLOUDEVENTS, description="shape of a published event")
    start: Literal["start", "end"] = Field(
        default="end", alias="from", description="where a new sink begins: at the oldest kept event, or with new ones"
    )
    batch: Batch = Field(default=Batch(), description="how many events go out in one write")
    retry: Retry = Field(default=Retry(), description="waits between attempts")

    @property
    def write_seconds(self) -> float:
        """How long one write may take. A stop waits 8 s at most: what is not acknowledged then is sent again later."""
        return 6.0


def secret_of(options: SecretFiles, key: str) -> str | None:
    """:meth:`SecretFiles.secret`, as a sink tells of it.

    Raises:
        NotConnected: the file can't be read.

    """
    try:
        return options.secret(key)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no UTF-8"
        raise NotConnected(f"cannot read {key}_file: {why}", reason="secret") from None
