"""An App Mesh daemon to try and to test against.

It speaks TCP, WSS and HTTPS over TLS with an authority of its own, really runs processes, and is as odd as the real
daemon where that was measured (docs/protocol.md, with what a real one answered beside it).

How it is put together, from the outside in:

``emulator``                      the thread, the listeners, what tests may do to it
``tcp``, ``web``, ``web_server``  the transports: bytes to requests, answers and events to bytes
``daemon``, ``routes``            one request to one answer, whatever the transport
``operations/``                   what the daemon can do, one module per area
``applications``, ``application`` the apps and their events, over ``processes``, ``output``, ``schedule``, ``tasks``
``events``, ``connection``        the one counter, subscriptions, and the queue in front of each client
``access``                        who asks, and what they may do: by ``accounts`` and ``tokens`` (2.x), or by
                                  ``principals`` and the tokens of ``issuer``, ``issuer_web`` (3.x)
``dialects``                      what differs between the generations in words and manners
``store``                         what outlives a restart

Everything inside belongs to one thread with one event loop, so nothing inside has a lock. A request is a task; one that
never waits is carried out whole, so its answer and the events that it causes keep their order.

It is a daemon of 2.x, or on request (``generation``) one of 3.x: ``3.0`` of August 2026, ``3`` of October.
"""

from meshbridge.emulator.emulator import Emulator
from meshbridge.emulator.errors import EmulatorError, NotInstalled
from meshbridge.emulator.events import RecordedEvent
from meshbridge.emulator.foreground import emulate
from meshbridge.emulator.settings import EmulatorOptions

__all__ = ["Emulator", "EmulatorError", "EmulatorOptions", "NotInstalled", "RecordedEvent", "emulate"]
