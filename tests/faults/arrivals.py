"""Holds what arrived at a sink against what a journal held."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshbridge.journal.options import Sync
from meshbridge.journal.store import Store

__all__ = ["Journaled", "check_delivered", "journaled"]


@dataclass(frozen=True, slots=True)
class Journaled:
    """The ids in a journal, in its order, each with its app."""

    apps: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.apps)


def journaled(directory: Path) -> Journaled:
    """Of a bridge that has ended, however that was. Its files stay as they are."""
    with tempfile.TemporaryDirectory(prefix="journaled-") as copy:
        return _journaled(shutil.copytree(directory, Path(copy) / "journal", ignore=shutil.ignore_patterns("*.sock")))


def _journaled(directory: Path) -> Journaled:
    store = Store(directory, Sync.NONE)
    try:
        apps: dict[str, str] = {}
        after = 0
        while envelopes := store.read(after, 1000, 2**30):
            after = envelopes[-1].offset
            for envelope in envelopes:
                assert envelope.event.id not in apps, f"journaled twice: {envelope.event.id}"
                apps[envelope.event.id] = envelope.event.app
        return Journaled(apps)
    finally:
        store.close()


def check_delivered(kept: Journaled, delivered: Sequence[str], *, twice_at_most: int) -> set[str]:
    """Whatever was journaled arrived, with its own id, in the order of its app; gives the ids that did not arrive.

    ``delivered`` is every arrival, in order; of what came twice, the first counts for the order, and both for
    ``twice_at_most``, which is what may have been under way at each failure.
    """
    first = dict.fromkeys(delivered)
    unknown = [one for one in first if one not in kept.apps]
    assert not unknown, f"delivered and never journaled: {unknown[:5]}"
    twice = len(delivered) - len(first)
    assert twice <= twice_at_most, f"{twice} came twice"
    places = {one: place for place, one in enumerate(kept.apps)}
    last: dict[str, int] = {}
    for one in first:
        app = kept.apps[one]
        assert last.get(app, -1) < places[one], f"{one} of {app} is out of order"
        last[app] = places[one]
    return kept.apps.keys() - first.keys()
