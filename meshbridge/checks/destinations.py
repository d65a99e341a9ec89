"""Each sink's destination: a real connection that leaves no trace."""

from collections.abc import Callable, Collection, Generator, Iterator
from typing import Any

from meshbridge.model.status import Grade, Verdict
from meshbridge.sinks.base import Found, SinkError
from meshbridge.sinks.commands import CommandProbe

__all__ = ["check_sink"]

_SECONDS = 5.0
_HINT = "; set "  # parts what happened from what to do, in a sink's message
_REMEDIES = {  # by the reason of the error
    "unreachable": "check the address, that the server runs, and the firewalls in between",
    "timeout": "check the address, and the server's log",
    "refused_connection": "set username and password_file to an account of the server, and check its access rules",
    "connection_lost": "check the server's log; a broker that speaks MQTT 3.1.1 only wants protocol: 3.1.1",
    "secret": "make the file readable for this user, with the secret as its content",
    "template": "mend the template; meshbridge explain shows what comes of it",
    "tls": "see tls of the sink: files that exist, and the authority that signed the server's certificate",
    "open": "make the directory, and let this user write in it",
    "no_stream": "make the stream, or name one that exists",
    "no_topic": "make the topic, or name one that exists",
    "proxy": "see the address, name and password in proxy",
}


def check_sink(name: str, options: Any, daemons: Collection[str] = ()) -> Iterator[Verdict]:
    """``options`` is the settings model of any kind of sink; ``daemons``: the names of the configuration."""
    subject = f"sink {name}"
    connection = yield from _tried(subject, "connection", lambda: options.probe(_SECONDS) or Found())
    if connection and isinstance(options, CommandProbe):
        yield from _tried(subject, "commands", lambda: options.probe_commands(daemons, _SECONDS))


def _tried(subject: str, what: str, probe: Callable[[], Found | None]) -> Generator[Verdict, None, bool]:
    """The verdict of a probe; gives whether it got through."""
    try:
        found = probe()
    except SinkError as error:
        text, hint, rest = str(error).partition(_HINT)
        remedy = f"set {rest}" if hint else _REMEDIES.get(error.reason)
        yield Verdict(subject, what, Grade.FAILED, text, remedy)
        return False
    except Exception as error:  # noqa: BLE001 a bug of a sink, which may be somebody's own, costs its own verdict alone
        yield Verdict(subject, what, Grade.FAILED, f"its probe failed: {error!r}", "report it to its author")
        return False
    if found is None:
        return True
    if found.untried is not None:
        text = f"not tried, since nothing is published: {found.untried}"
        yield Verdict(subject, "permissions", Grade.OK, text)
    if found.doubt is None:
        yield Verdict(subject, what, Grade.OK, found.text)
    else:
        yield Verdict(subject, what, Grade.WARNING, found.doubt, found.remedy)
    return True
