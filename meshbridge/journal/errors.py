"""What can go wrong with a journal.

* ``JournalError``: it can't be opened or used; the message says why and what to do

  * ``JournalInUseError``: another process has it open

* ``DamageError`` (an ``sqlite3.DatabaseError``): what was read is not what was written

  * ``EmptyError``: the file has 0 bytes

``sqlite3.Error`` stays inside the package; :func:`is_damage` tells a file that must be set aside from a disk that may
recover.
"""

import sqlite3

__all__ = ["DamageError", "EmptyError", "JournalError", "JournalInUseError", "is_damage", "is_full"]

_PRIMARY = 0xFF
# What the file itself causes. Of the input/output errors only those of reading: a write may succeed later.
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_DAMAGE_EXTENDED = frozenset(
    {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}
)
_DAMAGE_TEXTS = ("Could not decode", "no such table", "no such column")  # errors of the module's or without own number


class JournalError(Exception):
    """The journal can't be opened or written; the message says why and what to do."""


class JournalInUseError(JournalError):
    """Another process has the journal open."""


class DamageError(sqlite3.DatabaseError):
    """The database is no journal, or what was read from it is not what was written."""


class EmptyError(DamageError):
    """The database has 0 bytes, as after a power cut while an older version created it."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is at fault, so that trying again can't help."""
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(error, DamageError) or str(error).startswith(_DAMAGE_TEXTS):
        return True
    return code is not None and (code & _PRIMARY in _DAMAGE or code in _DAMAGE_EXTENDED)


def is_full(error: sqlite3.Error) -> bool:
    """Whether there is no room."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or "full" in str(error)
