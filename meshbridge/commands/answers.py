"""The JSON of an answer, and what the journal keeps of a command so that it can be answered after a restart."""

from typing import Any

import orjson

from meshbridge.commands.actions import Outcome
from meshbridge.commands.parse import Command
from meshbridge.sinks.commands import CommandMessage, CommandWord

__all__ = ["answer_fields", "encoded", "fields_of", "message_of", "unknown_hint"]


def answer_fields(outcome: Outcome, limit_bytes: int) -> dict[str, Any]:
    """``exit_code`` and ``output`` of an answer; output beyond the limit is cut, at its beginning."""
    output = outcome.output
    text = None if output is None else output[-limit_bytes:].decode("utf-8", "replace")
    return {"exit_code": outcome.exit_code, "output": text}


def encoded(message: CommandMessage, word: str, name: str | None, seconds: float, **facts: Any) -> bytes:
    """The JSON of an answer, its keys always the same."""
    fields = {"exit_code": None, "output": None, "error": None, "hint": None} | facts
    return orjson.dumps(
        {
            "id": name,
            "command": word or None,
            "daemon": message.daemon,
            "app": message.app,
            "ok": fields["error"] is None,
            "error": fields["error"],
            "hint": fields["hint"],
            "exit_code": fields["exit_code"],
            "output": fields["output"],
            "duration_seconds": round(seconds, 3),
        }
    )


def unknown_hint(word: str) -> str:
    if word == CommandWord.RESTART:
        return "look at the app before you repeat it: it may be disabled"
    return "look at the app before you repeat it"


def fields_of(message: CommandMessage, command: Command) -> dict[str, Any]:
    """What the journal keeps of a command."""
    return {
        "daemon": message.daemon,
        "app": message.app,
        "command": command.word.value,
        "id": command.id,
        "reply_to": message.reply_to,
        "correlation": None if message.correlation is None else message.correlation.hex(),
    }


def message_of(fields: dict[str, Any]) -> tuple[CommandMessage, str | None]:
    """(the message, the sender's id) of such fields, which a damaged disk may have changed."""

    def text(name: str) -> str | None:
        value = fields.get(name)
        return value if isinstance(value, str) else None

    try:
        correlation = bytes.fromhex(text("correlation") or "")
    except ValueError:
        correlation = b""
    word = text("command") or ""
    message = CommandMessage(
        text("daemon") or "", text("app") or "", word == CommandWord.TASK, b"", text("reply_to"), correlation or None
    )
    return message, text("id")
