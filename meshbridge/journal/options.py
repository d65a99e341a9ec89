"""Settings of the journal."""

from enum import StrEnum
from pathlib import Path

from pydantic import Field

from meshbridge.fields import Duration, Options, Size

__all__ = ["JournalOptions", "Sync"]


class Sync(StrEnum):
    """When a group of events counts as kept."""

    GROUP = "group"  # after an fsync, shared by the group
    NONE = "none"  # once handed to the kernel: survives a crash of meshbridge, not one of the host


class JournalOptions(Options):
    """The durable log: where it is and how much it keeps."""

    path: Path = Field(default=Path("/var/lib/meshbridge"), description="directory of the journal")
    max_bytes: Size = Field(default=4 * 2**30, ge=2**20, description="keep at most this much")
    max_age: Duration = Field(default=7 * 86400.0, gt=0, description="keep events this long, delivered or not")
    sync: Sync = Field(default=Sync.GROUP, description="group: fsync each group of events; none: faster, less safe")
