"""An hour and a day of figures for a bridge that has just started, for pictures and for tests of the page."""

import math
import time
from collections.abc import Sequence

from meshbridge.model.figures import SAMPLE_SECONDS, FigureRing
from meshbridge.model.status import JournalStatus, LinkStatus, SinkStatus

__all__ = ["filled_ring"]

_DAY_SECONDS = 86_400


class _Filled(FigureRing):
    full = False

    def sample(self, links: Sequence[LinkStatus], sinks: Sequence[SinkStatus], journal: JournalStatus) -> None:
        if not self.full:
            super().sample(links, sinks, journal)


def filled_ring(daemons: list[str], sinks: list[str], *, trouble: bool = False) -> FigureRing:
    """``trouble``: the last sink has delivered nothing for 20 minutes. What the bridge samples later is left out."""
    ago = [float(_DAY_SECONDS)]
    ring = _Filled(lambda: time.monotonic() - ago[0])
    received, delivered = dict.fromkeys(daemons, 0.0), dict.fromkeys(sinks, 0.0)
    while ago[0] > 0:
        busy = 1.5 + math.sin(ago[0] / 5000) + 0.3 * math.sin(ago[0] / 97)
        for place, name in enumerate(daemons):
            received[name] += SAMPLE_SECONDS * (8 + 3 * place) * busy
        stuck_for = 1200 - ago[0] if trouble else 0.0
        statuses = []
        for name in sinks:
            stuck = name == sinks[-1] and stuck_for > 0
            delivered[name] += 0 if stuck else SAMPLE_SECONDS * 16 * busy
            statuses.append(
                SinkStatus(
                    name,
                    delivered=int(delivered[name]),
                    lag_events=int(stuck_for * 20) if stuck else 0,
                    lag_seconds=stuck_for if stuck else 0.04,
                    dead_letters=int(stuck_for // 300) if stuck else 0,
                )
            )
        ring.sample(
            [LinkStatus(name, events_received=int(count)) for name, count in received.items()],
            statuses,
            JournalStatus("", bytes=int(2**20 * (20 + 12 * (1 - ago[0] / _DAY_SECONDS)))),
        )
        ago[0] -= SAMPLE_SECONDS
    ago[0], ring.full = 0.0, True
    return ring
