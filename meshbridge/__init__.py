"""meshbridge: the daemon beside App Mesh that republishes its events and exports its metrics."""

__version__ = "0.1.0"
