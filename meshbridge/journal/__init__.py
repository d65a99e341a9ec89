"""The durable log between the daemons and the sinks.

**Layout.** ``<path>/journal.db`` is an SQLite database in WAL mode; ``<path>/lock`` is locked by the one process that
has it open. Tables: ``events`` (one row each, by ``offset``, which only grows and is never given twice), ``cursors``
(for each sink, the offset up to which it has everything), ``runs`` (for each daemon, its present run and the last
sequence journaled), ``app_states``, ``dead_letters`` (events that a sink refused for good, with the whole event),
``sink_memory`` (what a sink remembers beside its cursor: MQTT client id, retained topics, the good length of a file),
``app_history`` (a row for each event that is not output) and ``app_lanes`` (the names that its rows stand for).

**Where.** One append goes through ``journal`` (what users call), ``ledger`` (what is known without asking the disk, and
the newest events), ``writer`` (the thread that owns the database) and ``store`` (the database, with the rows that
``tables`` makes). Beside them: ``dead_letters``, ``damage`` (replaces a damaged database), ``retention`` (deletes),
``inspection`` (reads for a person), ``history_table`` and ``history`` (write and read what happened to apps).

**Who writes.** One thread, the journal's own. Links hand events over (:meth:`Journal.submit`), couriers hand cursors
over (:meth:`Journal.commit`), sinks what they remember (:meth:`Journal.memory`); cursors and memory wait a moment for
events to go with. Each turn of the thread takes all that has come and writes it in one transaction with one fsync. So
an event is on disk at once when the bridge is idle, and under load the fsync is shared: while it runs, the next group
gathers. Events become readable only after that commit: what a sink was sent is always on disk. What a sink saves is
never in a later transaction than a cursor that moves after it. With ``sync`` as a time, the WAL is fsynced so often and
no commit waits for it; SQLite keeps the order, so what is left after a power cut is the beginning of what was written.

**Who reads.** Couriers, by :meth:`Journal.read`: the newest events from memory (the tail), older ones from the
database.

**Who deletes.** :meth:`Journal.prune`, called by the service's housekeeping: what is older than ``max_age``, and above
``max_bytes`` first what every sink has, then STDOUT, then the oldest of the rest. What a sink had not yet is counted.
Rows of ``app_history`` stay when their events go, until ``max_age``, in at most an eighth of ``max_bytes``.

**History of an older journal.** Rows are written in the transaction of their events. Where an older meshbridge wrote
events without them, the thread adds them when it has nothing else to do, newest first, 4,000 events at a time. The
counter ``history_from`` says how far it is.

**How a crash or a power cut heals.** SQLite replays its WAL: a transaction is there as a whole or not at all. A cursor
may then be a little behind what was acknowledged; those events are sent again, with the same ids. A new database is
made as ``journal.db.creating`` and renamed when it is complete and on the disk, so ``journal.db`` is never half made.

**When the disk can't be written** (it is full, say), events are numbered and delivered from memory, and the write is
tried again each second. Memory is bounded: what every sink has had goes first, then STDOUT is no longer taken, then
nothing is; each is counted. Only then may a sink have what is not on disk.

**When the file is damaged** (found when it is opened, read or written: SQLite finds damage in its structure, a checksum
in each row finds it in events), a fresh one is made beside it (``journal.db.new``) from what can still be read and from
memory: cursors, runs, states, dead letters, sinks' memory, history, and every event that some sink has not had yet.
Each step is on the disk before the next: the fresh one is complete, the damaged one gets a dated name (the last three
are kept), the fresh one takes its place. Couriers go on at the same offsets. What is lost is counted.

**Every file that the bridge writes**, and what a power cut leaves of it:

============================== ============================================== ======================================
file, and who writes it        how                                            after a power cut
============================== ============================================== ======================================
``journal.db``, ``-wal``       this package, as above                         whole; read back at the next start
``journal.db-shm``             SQLite, in shared memory                       made again from the WAL
``lock``                       ``lock``: a process id, no fsync               any content: only its lock counts
``control.sock``               ``admin.serving``: bound under another name    replaced by the next start
                               and renamed
a file sink's file             ``sinks.file``: append, fsync, then its length the end that is not whole is cut off when
                               goes into ``sink_memory``                      it is opened
its old files, ``.gz``         ``sinks.rotation``: renamed and fsynced;       either of the two is whole; ``.part`` is
                               compressed as ``.part``, fsynced, renamed,     deleted, the compression is done again
                               and only then the original is deleted
``mqtt-client-id-*``,          older versions only, without fsync             checked, moved into ``sink_memory``
``mqtt-topics-*``                                                             once, deleted; damaged ones set aside
``admin.audit_file``           ``admin.audit``: one append for each call, no  the last lines may be missing or torn;
                               fsync, since a call must not wait for a disk   nothing in the bridge reads it
the SDK's ``cookie_file``      ``appmesh.tokens``: written beside, renamed,   the old or an unusable one: then the
                               no fsync                                       client logs in again
downloads of the SDK           ``appmesh.files``: written beside, renamed     may be missing or empty: get it again
secrets, configuration         never written, only read                       as its owner left it
============================== ============================================== ======================================

``tests/powercut`` records all writes of a run and replays them with what was not flushed lost, kept or torn.
"""

from meshbridge.journal.dead_letters import DeadLetter, DeadLetters
from meshbridge.journal.errors import JournalError, JournalInUseError
from meshbridge.journal.inspection import Verification, database_in, verify_directory
from meshbridge.journal.journal import Journal
from meshbridge.journal.options import JournalOptions, Sync
from meshbridge.journal.retention import steady_now

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
