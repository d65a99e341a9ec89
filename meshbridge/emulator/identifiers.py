"""The 11-character names that the daemon gives to messages, subscriptions, processes and one-off runs."""

import time

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TAIL_CHARACTERS = 2
_TAILS = [first + second for first in _ALPHABET for second in _ALPHABET]


class Identifiers:
    """Unique in this daemon and rising with time, like the daemon's own.

    A nanosecond timestamp has 11 digits in base 62. The last two are counted rather than read from the clock, since a
    flood of events takes an identifier for each copy.
    """

    def __init__(self) -> None:
        self._head_number = 0
        self._head = ""
        self._tail = len(_TAILS)

    def next(self) -> str:
        if self._tail == len(_TAILS):
            self._head_number = max(self._head_number + 1, time.time_ns() // len(_TAILS))
            self._head = _base62(self._head_number, 11 - _TAIL_CHARACTERS)
            self._tail = 0
        self._tail += 1
        return self._head + _TAILS[self._tail - 1]


def _base62(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
