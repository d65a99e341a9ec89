"""What a broker's reason codes mean (MQTT 5, 2.4; docs/design.md, 'How an answer is taken'), in one table.

A code speaks of the message, which is then never taken, or of the place, which may take it later. A broker may use any
code with any packet, also one that the specification does not list for it, and codes of its own.
"""

from enum import Enum, auto

__all__ = ["FAILURE", "Meaning", "label_of", "meaning_of", "name_of"]

FAILURE = 0x80  # reason codes from here on are failures
_NAMES = {
    0x80: "Unspecified error",
    0x81: "Malformed packet",
    0x82: "Protocol error",
    0x83: "Implementation specific error",
    0x84: "Unsupported protocol version",
    0x85: "Client identifier not valid",
    0x86: "Bad user name or password",
    0x87: "Not authorized",
    0x88: "Server unavailable",
    0x89: "Server busy",
    0x8A: "Banned",
    0x8B: "Server shutting down",
    0x8C: "Bad authentication method",
    0x8D: "Keep alive timeout",
    0x8E: "Session taken over",
    0x8F: "Topic filter invalid",
    0x90: "Topic name invalid",
    0x91: "Packet identifier in use",
    0x92: "Packet identifier not found",
    0x93: "Receive maximum exceeded",
    0x94: "Topic alias invalid",
    0x95: "Packet too large",
    0x96: "Message rate too high",
    0x97: "Quota exceeded",
    0x98: "Administrative action",
    0x99: "Payload format invalid",
    0x9A: "Retain not supported",
    0x9B: "QoS not supported",
    0x9C: "Use another server",
    0x9D: "Server moved",
    0x9E: "Shared subscriptions not supported",
    0x9F: "Connection rate exceeded",
    0xA0: "Maximum connect time",
    0xA1: "Subscription identifiers not supported",
    0xA2: "Wildcard subscriptions not supported",
}


class Meaning(Enum):
    """What a code speaks of."""

    TAKEN = auto()
    MESSAGE = auto()  # never this one
    TOO_LARGE = auto()  # never this one as it is: output is divided
    DENIED = auto()  # of the place for a bounded time, and then of the message
    PLACE = auto()  # later


_MEANINGS = {0x87: Meaning.DENIED, 0x90: Meaning.MESSAGE, 0x95: Meaning.TOO_LARGE, 0x99: Meaning.MESSAGE}


def meaning_of(reason: int) -> Meaning:
    return Meaning.TAKEN if reason < FAILURE else _MEANINGS.get(reason, Meaning.PLACE)


def name_of(reason: int) -> str:
    """For a person."""
    return _NAMES.get(reason) or f"Reason code 0x{reason:02X}"


def label_of(reason: int) -> str:
    """For a metric's label."""
    return _NAMES[reason].lower().replace(" ", "_") if reason in _NAMES else "unknown_reason"
