"""The durable log between the daemons and the sinks.

**Layout.** ``<path>/journal.db`` is an SQLite database in WAL mode; ``<path>/lock`` is locked by the one process that
has it open. Tables: ``events`` (one row each, by ``offset``, which only grows and is never given twice), ``cursors``
(for each sink, the offset up to which it has everything), ``runs`` (for each daemon, its present run and the last
sequence journaled), ``dead_letters`` (events that a sink refused for good, with the whole event).

**Who writes.** One thread, the journal's own. Links hand events over (:meth:`Journal.submit`), couriers hand cursors
over (:meth:`Journal.commit`); each turn of the thread takes all that has come and writes it in one transaction with
one fsync. So an event is on disk at once when the bridge is idle, and under load the fsync is shared: while it runs,
the next group gathers. Events become readable only after that commit: what a sink was sent is always on disk.

**Who reads.** Couriers, by :meth:`Journal.read`: the newest events from memory (the tail), older ones from the
database.

**Who deletes.** :meth:`Journal.prune`, called by the service's housekeeping: what is older than ``max_age``, and above
``max_bytes`` first what every sink has, then STDOUT, then the oldest of the rest. What a sink had not yet is counted.

**How a crash heals.** SQLite replays its WAL: a transaction is there as a whole or not at all. A cursor may then be a
little behind what was acknowledged; those events are sent again, with the same ids.

**When the disk is full**, events wait in bounded memory and the write is tried again each second; above the bound
STDOUT is dropped first, and counted. **When the file is damaged** it is set aside under a dated name and a fresh one
begun: the service goes on.
"""

from meshbridge.journal.journal import Journal
from meshbridge.journal.options import JournalOptions, Sync
from meshbridge.journal.store import JournalError, JournalInUseError

__all__ = ["Journal", "JournalError", "JournalInUseError", "JournalOptions", "Sync"]
