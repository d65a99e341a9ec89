"""Commands and tasks that come in through a sink, for apps of the daemons.

**The way of a command.** A sink receives a message and hands it to its :class:`~meshbridge.commands.desk.Desk`, which
decides at once, in memory: retained, expired, repeated, malformed, forbidden or one too many are answered (or ignored)
and counted there. What remains is *accepted*: a text about it is written to the journal, and only when that is on disk
does it run. So a command runs at most once: after a crash the next bridge finds the text and answers that the outcome
is unknown. The text goes when the reply was acknowledged by the broker, or after ten minutes.

**Order.** The commands of one app run one after the other, in the order in which they came in; those of different apps
run side by side, on at most :data:`~meshbridge.commands.desk.WORKERS` threads for each daemon. A daemon that is slow
holds up its own commands alone.

**What can be reached.** A command names an app by a level of its topic. Only an app that the daemon's list has under
that name is reached; the name from the list, never the text of the message, goes into a request.
"""

from meshbridge.commands.desk import Desk
from meshbridge.commands.explanation import explain_command

__all__ = ["Desk", "explain_command"]
