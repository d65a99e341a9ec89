"""Settings of the journal."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

from meshbridge.fields import Duration, Options, Size, duration_text, parse_duration

__all__ = ["JournalOptions", "Sync"]

_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.001, 60.0


class Sync(StrEnum):
    """When a group of events is fsynced."""

    GROUP = "group"  # before it can be read: what a sink has seen is on the disk
    NONE = "none"  # when the kernel likes, which a power cut may not survive: not even the database


def _sync(value: object) -> Sync | float:
    if value in tuple(Sync):
        return Sync(str(value))
    try:
        seconds = parse_duration(value)
    except ValueError:
        seconds = 0.0
    if not _SHORTEST_SECONDS <= seconds <= _LONGEST_SECONDS:
        raise ValueError(f"invalid sync {value!r}: use group, none, or a time from 1ms to 60s such as 100ms")
    return seconds


def _sync_text(value: Sync | float) -> str:
    return value.value if isinstance(value, Sync) else duration_text(value)


SyncMode = Annotated[
    Sync | Duration,
    BeforeValidator(_sync, json_schema_input_type=str | float),
    PlainSerializer(_sync_text, return_type=str),
]


class JournalOptions(Options):
    """The durable log: where it is and how much it keeps."""

    path: Path = Field(default=Path("/var/lib/meshbridge"), description="directory of the journal")
    max_bytes: Size = Field(default=4 * 2**30, ge=2**20, description="keep at most this much")
    max_age: Duration = Field(default=7 * 86400.0, gt=0, description="keep events this long, delivered or not")
    sync: SyncMode = Field(
        default=Sync.GROUP,
        description="`group`: fsync each group of events before it is delivered; a time such as `100ms`: so often, "
        "and a power cut loses at most that; `none`: no fsync, and a power cut may lose the whole journal",
    )
