"""``/docs`` and ``/problems/<kind>``: the API's description as a page for people.

It is made here of ``/openapi.json``, in HTML and a style sheet, without a script: nothing is asked of others, and
nothing can be run in it.
"""

from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request, Response
from jinja2 import Environment

from meshbridge.admin.problems import MEANINGS, ProblemKind

__all__ = ["router"]

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/docs")
def docs(request: Request) -> Response:
    """Every operation, and every kind of problem. Made once for each application: anybody may ask for it."""
    state: Any = request.app.state
    if not hasattr(state, "reference"):
        template = _environment().from_string(_text("reference.html.j2"))
        described = request.app.openapi()
        state.reference = template.render(api=described, problems=MEANINGS, resolve=_resolver(described))
    return Response(state.reference, media_type="text/html", headers=_HEADERS)


@router.get("/docs/reference.css")
def style() -> Response:
    return Response(_text("reference.css"), media_type="text/css", headers=_HEADERS)


@router.get("/problems/{kind}")
def problem(kind: ProblemKind) -> Response:
    """What a kind of problem means: the ``type`` of each leads here."""
    return Response(status_code=303, headers={"Location": f"/docs#problem-{kind}"})


@cache
def _text(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)


def _resolver(described: dict[str, Any]) -> Any:
    schemas = described["components"]["schemas"]

    def fields(schema: dict[str, Any]) -> list[dict[str, Any]]:
        """A line for each member of an object: name, type, whether it must be there, what it is."""
        while "$ref" in schema:
            schema = schemas[schema["$ref"].rpartition("/")[2]]
        needed = schema.get("required", ())
        return [
            {"name": name, "type": kind(part), "required": name in needed, "description": part.get("description", "")}
            for name, part in schema.get("properties", {}).items()
        ]

    def kind(schema: dict[str, Any]) -> str:
        """A type in a few words."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return " | ".join(map(str, schemas[name]["enum"])) if "enum" in schemas[name] else name
        if "enum" in schema:
            return " | ".join(map(str, schema["enum"]))
        if "anyOf" in schema:
            return " | ".join(dict.fromkeys(kind(one) for one in schema["anyOf"]))
        if schema.get("type") == "array":
            return f"list of {kind(schema.get('items', {}))}"
        return str(schema.get("type", "any"))

    return {"fields": fields, "kind": kind}
