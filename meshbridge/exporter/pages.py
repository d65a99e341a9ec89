"""What people and probes look at: the landing page and the state as JSON. Pure; everything on the page is escaped."""

import html
import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

import meshbridge
from meshbridge.model.status import JournalStatus, LinkStatus, SinkStatus

__all__ = ["landing_page", "readiness"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
body { color: #222; background: #fff }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd }
.up { color: #176f2c } .down { color: #b3261e }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818 } th, td { border-color: #444 }
  .up { color: #6fcf83 } .down { color: #ff8a80 } a { color: #8ab4f8 }
}
"""

_SEE_THE_LOG = "failing: see the log, or the admin API"


def landing_page(
    reasons: Sequence[str], links: Iterable[LinkStatus], sinks: Iterable[SinkStatus], journal: JournalStatus
) -> bytes:
    ready = (
        "<p class=up>Ready.</p>" if not reasons else f"<p class=down>Not ready: {html.escape('; '.join(reasons))}.</p>"
    )
    daemons = _table(
        ("Daemon", "State", "Address", "Connected since", "Last error"),
        (
            (link.daemon, (str(link.state), link.up), link.url, _moment(link.connected_since), _error(link.last_error))
            for link in links
        ),
    )
    outputs = _table(
        ("Sink", "State", "Behind by", "Dead letters", "Last error"),
        (
            (
                sink.sink,
                (str(sink.state), sink.up),
                f"{sink.lag_events} events, {sink.lag_seconds:.0f} s",
                str(sink.dead_letters),
                _error(sink.last_error),
            )
            for sink in sinks
        ),
    )
    kept = f"{journal.events} events, {journal.bytes / 2**20:.1f} MiB, {'open' if journal.open else 'closed'}"
    return f"""<!doctype html>
<html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width"><title>meshbridge</title>
<style>{_STYLE}</style>
<h1>meshbridge {html.escape(meshbridge.__version__)}</h1>
{ready}
<p><a href="metrics">Metrics</a> · <a href="-/ready">Readiness</a> · <a href="-/healthy">Health</a></p>
{daemons}
{outputs}
<p>Journal: {html.escape(kept)}.</p>
</html>
""".encode("utf-8", "replace")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str | tuple[str, bool]]]) -> str:
    cells = "".join(f"<th>{head}" for head in heads)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}\n" for row in rows)
    nothing = f"<tr><td colspan={len(heads)}>none\n"
    return f"<table><tr>{cells}\n{body or nothing}</table>"


def _cell(value: str | tuple[str, bool]) -> str:
    if isinstance(value, str):
        return f"<td>{html.escape(value)}"
    text, good = value
    return f"<td class={'up' if good else 'down'}>{html.escape(text)}"


def _error(text: str | None) -> str:
    """These pages are open to everyone, and what a daemon or a destination says may be about anything."""
    return _SEE_THE_LOG if text else ""


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def readiness(
    reasons: Sequence[str], links: Iterable[LinkStatus], sinks: Iterable[SinkStatus], journal: JournalStatus
) -> bytes:
    """JSON. Ready means that the settings are valid, the journal is open and the listeners are up; whether daemons and
    sinks can be reached is shown, but restarting the bridge would not help there.
    """
    state: dict[str, Any] = {
        "ready": not reasons,
        "reasons": list(reasons),
        "daemons": {
            link.daemon: {"up": link.up, "state": link.state, "last_error": _error(link.last_error) or None}
            for link in links
        },
        "sinks": {
            sink.sink: {
                "up": sink.up,
                "state": sink.state,
                "lag_events": sink.lag_events,
                "dead_letters": sink.dead_letters,
                "last_error": _error(sink.last_error) or None,
            }
            for sink in sinks
        },
        "journal": {"open": journal.open, "events": journal.events, "last_error": journal.last_error},
    }
    return json.dumps(state).encode() + b"\n"  # not orjson: an error text may hold half a surrogate pair
