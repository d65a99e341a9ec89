"""The sink that writes messages for people: chat, mail and push, over Apprise.

``groups`` decides what is reported when (a state machine, with time as an argument), ``message`` writes title and body,
``service`` sends them, ``sink`` puts these together behind the contract of sinks (docs/adr/0020).
"""

from meshbridge.sinks.notify.options import NotifyOptions

__all__ = ["NotifyOptions"]
