"""The durable log between the daemons and the sinks.

**Layout.** ``<path>/journal.db`` is an SQLite database in WAL mode; ``<path>/lock`` is locked by the one process that
has it open. Tables: ``events`` (one row each, by ``offset``, which only grows and is never given twice), ``cursors``
(for each sink, the offset up to which it has everything), ``runs`` (for each daemon, its present run and the last
sequence journaled), ``app_states``, ``dead_letters`` (events that a sink refused for good, with the whole event).

**Where.** ``journal`` is what users call; ``ledger`` is what is known without asking the disk; ``writer`` is the thread
that owns the database (``store``), mends it (``damage``) and deletes from it (``keeping``).

**Who writes.** One thread, the journal's own. Links hand events over (:meth:`Journal.submit`), couriers hand cursors
over (:meth:`Journal.commit`), which wait a moment for events to go with; each turn of the thread takes all that has
come and writes it in one transaction with one fsync. So an event is on disk at once when the bridge is idle, and under
load the fsync is shared: while it runs, the next group gathers. Events become readable only after that commit: what a
sink was sent is always on disk.

**Who reads.** Couriers, by :meth:`Journal.read`: the newest events from memory (the tail), older ones from the
database.

**Who deletes.** :meth:`Journal.prune`, called by the service's housekeeping: what is older than ``max_age``, and above
``max_bytes`` first what every sink has, then STDOUT, then the oldest of the rest. What a sink had not yet is counted.

**How a crash heals.** SQLite replays its WAL: a transaction is there as a whole or not at all. A cursor may then be a
little behind what was acknowledged; those events are sent again, with the same ids.

**When the disk takes nothing** (it is full, say), events are numbered and delivered from memory, and the write is tried
again each second. Memory is bounded: what every sink has had goes first, then STDOUT is no longer taken, then nothing
is; each is counted. Only then may a sink have what is not on disk.

**When the file is damaged** (found when it is opened, read or written: SQLite finds damage in its structure, a checksum
in each row finds it in events), a fresh one is made beside it from what can still be read and from memory: cursors,
runs, states, dead letters, and every event that some sink has not had yet. It takes the damaged one's place, which
stays under a dated name; the last three are kept. Couriers go on at the same offsets. What is lost is counted.
"""

from meshbridge.journal.clock import steady_now
from meshbridge.journal.errors import JournalError, JournalInUseError
from meshbridge.journal.inspection import Verification, database_in, verify_directory
from meshbridge.journal.journal import Journal
from meshbridge.journal.letters import DeadLetter, DeadLetters
from meshbridge.journal.options import JournalOptions, Sync

__all__ = [
    "DeadLetter",
    "DeadLetters",
    "Journal",
    "JournalError",
    "JournalInUseError",
    "JournalOptions",
    "Sync",
    "Verification",
    "database_in",
    "steady_now",
    "verify_directory",
]
