"""A command from the bytes of a message. Pure: no I/O, no clock."""

from dataclasses import dataclass

import orjson

from meshbridge.sinks.commands import CommandMessage, CommandOptions, CommandWord

__all__ = ["Command", "CommandError", "parse"]

_MAX_ID = 256  # characters of an id, which is sent back
_KEYS = frozenset({"command", "id"})
_SHOWN = 64  # characters of a payload that an error repeats


class CommandError(Exception):
    """A command that is not carried out: what is wrong, and what to do."""

    def __init__(self, error: str, hint: str | None = None, *, result: str = "invalid") -> None:
        super().__init__(error)
        self.error = error
        self.hint = hint
        self.result = result
        """For the metric's label."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a message asks for."""

    word: CommandWord
    id: str | None
    """The sender's own name for it, sent back in the answer."""


def parse(message: CommandMessage, options: CommandOptions) -> Command:
    """Reads a message.

    A task is the payload as it is. A command is the word alone, or JSON ``{"command": "restart", "id": "…"}``.

    Raises:
        CommandError: it is none, or one that is not allowed.

    """
    if message.fault is not None:
        raise CommandError(message.fault, "send less")
    if len(message.payload) > options.max_payload_bytes:
        raise CommandError(
            f"payload of {len(message.payload)} bytes; {options.max_payload_bytes} are allowed",
            "raise commands.max_payload_bytes, or send less",
        )
    command = Command(CommandWord.TASK, None) if message.is_task else _command(message.payload)
    if command.word not in options.allow:
        raise CommandError(
            f"{command.word} is not allowed here", f"allowed: {', '.join(options.allow)}", result="forbidden"
        )
    return command


def _command(payload: bytes) -> Command:
    try:
        text = payload.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise CommandError("the payload is not UTF-8", _form()) from None
    if not text.startswith("{"):
        return Command(_word(text), None)
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise CommandError(f"the payload begins like JSON but is not: {error}", _form()) from None
    unknown = sorted(fields.keys() - _KEYS)
    if unknown:
        raise CommandError(f"unknown key {unknown[0][:_SHOWN]!r}", _form())
    word, name = fields.get("command"), fields.get("id")
    if not isinstance(word, str):
        raise CommandError("command is missing, or not a string", _form())
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if name is not None and (not isinstance(name, str) or not 1 <= len(name) <= _MAX_ID):
        raise CommandError(f"id must be a string of 1 to {_MAX_ID} characters", _form())
    return Command(_word(word), name)


def _word(text: str) -> CommandWord:
    word = text.strip().lower()
    if word == CommandWord.TASK:
        raise CommandError("a task is not a command", "send its payload to the task topic of the app")
    try:
        return CommandWord(word)
    except ValueError:
        raise CommandError(f"unknown command {text[:_SHOWN]!r}", _form()) from None


def _form() -> str:
    words = ", ".join(word for word in CommandWord if word is not CommandWord.TASK)
    return f'send one of {words}, or {{"command": "restart", "id": "…"}}'
