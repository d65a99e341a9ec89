"""Who may do what: each operation needs a scope, and the application's gate says whether the caller has it."""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

from fastapi import Depends, FastAPI, Request

__all__ = ["Gate", "Scope", "needs", "open_gate"]


class Scope(StrEnum):
    """What a token may be good for; each contains those before it."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"


Gate = Callable[[Request, Scope], None]
"""Raises ``Problem`` (401, 403) where the caller may not."""


def open_gate(_request: Request, _scope: Scope) -> None:
    """Of the control socket: whoever can open it is its owner."""


def install(application: FastAPI, gate: Gate) -> None:
    application.state.gate = gate


def needs(scope: Scope) -> Any:
    """A dependency of an operation."""

    def check(request: Request) -> None:
        gate: Gate = request.app.state.gate
        gate(request, scope)

    return Depends(check)
