"""The exporter: what Prometheus scrapes.

One scrape, from top to bottom: ``web`` takes the request, ``handler`` reads its parameters and runs the collectors
(``collectors``) through ``gathering``, all daemons at once and within the scrape's own time; ``relabel`` gives a
daemon's text the label ``daemon``; ``exposition`` merges the families of all daemons and writes them in the format that
``negotiation`` chose. ``server`` holds the socket and the thread.

Nothing is kept from one scrape to the next but counters: an app or a daemon that is gone leaves no series.
"""

from meshbridge.exporter.options import Collectors, ExporterOptions
from meshbridge.exporter.server import Exporter
from meshbridge.exporter.sources import DaemonSource, Sources
from meshbridge.exporter.webconfig import WebConfigError, WebConfigFile

__all__ = [
    "Collectors",
    "DaemonSource",
    "Exporter",
    "ExporterOptions",
    "Sources",
    "WebConfigError",
    "WebConfigFile",
]
