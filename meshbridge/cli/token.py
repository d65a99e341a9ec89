"""``meshbridge token``."""

import json
from typing import Annotated

import typer

from meshbridge.cli.options import JsonOption
from meshbridge.cli.output import WRONG_USAGE, fail, show, show_json

__all__ = ["new"]

_SCOPES = ("read", "operate", "admin")


def new(
    scope: Annotated[str, typer.Option(help="What it is good for: read, operate (and read), admin (and all).")],
    name: Annotated[str, typer.Option(help="Who it is for; stands in the audit log.")] = "ops",
    as_json: JsonOption = False,
) -> None:
    """Make a token for the admin API: printed once, kept nowhere. The configuration gets its hash."""
    from pydantic import ValidationError

    from meshbridge.admin.options import Token
    from meshbridge.admin.tokens import digest, new_token

    if scope not in _SCOPES:
        fail(f"--scope must be {', '.join(_SCOPES[:-1])} or {_SCOPES[-1]}, not {scope!r}", WRONG_USAGE)
    token = new_token()
    try:
        entry = Token.model_validate({"name": name, "sha256": digest(token), "scopes": (scope,)})
    except ValidationError:
        fail(f"--name must be 1 to 64 letters, digits and . _ @ -, not {name!r}", WRONG_USAGE)
    line = entry.model_dump(mode="json")
    if as_json:
        show_json({"token": token, "entry": line})
        return
    for text in ("token, shown this once:", "", f"  {token}", ""):
        show(text)
    for text in ("for the configuration (then meshbridge reload, or a restart):", "", "  admin:", "    tokens:"):
        show(text)
    show(f"      - {{name: {json.dumps(name)}, sha256: {entry.sha256}, scopes: [{scope}]}}")
