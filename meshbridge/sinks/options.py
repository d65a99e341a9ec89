"""The settings that every sink has."""

from string import Formatter
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from meshbridge.fields import Batch, Format, RetryWaits, SecretFileError, SecretFiles, Selection
from meshbridge.sinks.base import NotConnected

__all__ = ["PlaceTemplate", "SinkOptions", "secret_of"]


def _with_places(template: str) -> str:
    for _, place, form, conversion in Formatter().parse(template):
        if place is None:
            continue
        if place not in {"daemon", "app", "event"}:
            raise ValueError(f"unknown place {{{place}}}: use {{daemon}}, {{app}} and {{event}}")
        if form or conversion:
            raise ValueError(f"place {{{place}}} stands alone between its braces")
    return template


PlaceTemplate = Annotated[str, AfterValidator(_with_places)]
"""Where an event goes: a text that may have ``{daemon}``, ``{app}`` and ``{event}`` in it."""


class SinkOptions(Selection):
    """What the courier needs to know; each sink adds how to reach its destination."""

    format: Format = Field(default=Format.CLOUDEVENTS, description="shape of a published event")
    start: Literal["start", "end"] = Field(
        default="end", alias="from", description="where a new sink begins: at the oldest kept event, or with new ones"
    )
    batch: Batch = Field(default=Batch(), description="how many events go out in one write")
    retry: RetryWaits = Field(default=RetryWaits(), description="waits between attempts")

    def is_same_place(self, other: "SinkOptions") -> bool:
        """Whether a sink of the other settings finds what one of these has left at its destination (``Clearing``)."""
        return type(other) is type(self)

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
    except SecretFileError as error:
        raise NotConnected(f"cannot read {key}_file {error}", reason="secret") from None
