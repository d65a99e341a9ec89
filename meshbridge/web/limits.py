"""What a client may cost."""

import resource
from dataclasses import dataclass

__all__ = ["DEFAULT_LIMITS", "Limits"]

_OTHER_DESCRIPTORS = 64  # of the journal, the links, the sinks, the libraries and the log
_SERVERS = 3  # exporter, admin API, control socket
_FEWEST_CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one server. The seconds are looked at once in ``tick_seconds``."""

    connections: int = 256
    head_bytes: int = 32 * 1024  # request line and headers
    head_seconds: float = 30.0  # from the first byte of a head, or from the connection's beginning, to its end
    stalled_seconds: float = 30.0  # in which at least `least_bytes` of a body or of an answer move, or all that is left
    least_bytes: int = 16 * 1024
    keep_alive_seconds: float = 30.0  # between two requests
    handshake_seconds: float = 10.0  # of TLS; asyncio's own default is 60
    tick_seconds: float = 1.0

    def most_connections(self) -> int:
        """``connections``, or the share of a server in the file descriptors of this process where that is less."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptors == resource.RLIM_INFINITY:
            return self.connections
        share = (descriptors - _OTHER_DESCRIPTORS) // _SERVERS
        return max(_FEWEST_CONNECTIONS, min(self.connections, share))


DEFAULT_LIMITS = Limits()
