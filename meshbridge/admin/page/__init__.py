"""``/``: the status page. Static files that hold nothing of this bridge: a browser asks for what they show, by token.

The files are small modules that a browser takes as they are (``static/main.js`` puts them together). The policy that
goes with each allows nothing from elsewhere and nothing inline, so a name of an app, or its output, is never more than
text.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from types import MappingProxyType

from fastapi import APIRouter, Request, Response

from meshbridge.admin.problems import Problem

__all__ = ["router"]

# Beside those that every answer has.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cache-Control": "no-cache",  # to be asked for again each time, so that an upgrade shows; the tag makes that cheap
    "Cross-Origin-Opener-Policy": "same-origin",
}
_INDEX = "index.html"
_MEDIA_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    tag: str


@cache
def _files() -> MappingProxyType[str, _File]:
    """Every file, by its name: what is not among them is not served."""
    found = {}
    for entry in (files(__package__) / "static").iterdir():
        media_type = _MEDIA_TYPES.get(entry.name.rpartition(".")[2])
        if media_type is None:  # an editor's leavings
            continue
        content = entry.read_bytes()
        found[entry.name] = _File(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return MappingProxyType(found)


@router.api_route("/", methods=["GET", "HEAD"])
def index(request: Request) -> Response:
    return file(request, _INDEX)


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
def file(request: Request, name: str) -> Response:
    found = _files().get(name)
    if found is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"the status page has no file {name!r}", found=name)
    headers = {**_HEADERS, "ETag": found.tag}
    if request.headers.get("If-None-Match") == found.tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(found.content, headers=headers, media_type=found.media_type)
