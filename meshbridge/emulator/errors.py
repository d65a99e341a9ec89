"""What can go wrong in the emulator, and how it is reported.

``EmulatorError``           it cannot run here; the message is one line for a person
└── ``NotInstalled``        a library of the extra ``meshbridge[demo]`` is missing
``RequestRefused``                 the daemon's own answer to a request that it does not carry out
"""

from collections.abc import Mapping

from meshbridge.emulator.messages import EmulatedAnswer, message_answer


class EmulatorError(RuntimeError):
    """The emulator cannot run here. The message is one line that says what to do."""


class NotInstalled(EmulatorError):  # noqa: N818 reads as a fact, like the SDK's own errors
    """A library that only the emulator needs is missing."""

    def __init__(self, library: str) -> None:
        super().__init__(f"the emulator needs {library}: install it with pip install 'meshbridge[demo]'")
        self.library = library


class RequestRefused(Exception):  # noqa: N818 an answer, not an error of the emulator
    """Ends an operation with the daemon's answer to it."""

    def __init__(self, status: int, message: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message or str(status))
        self.answer = EmulatedAnswer(status) if message is None else message_answer(status, message, headers)


class NoSuchApplication(RequestRefused):
    """The path names an app that is not registered."""

    def __init__(self) -> None:
        super().__init__(404, "No such application")
