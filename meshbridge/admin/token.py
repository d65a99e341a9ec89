"""``/api/v1/token``: what the caller's token is good for, so that a page offers no button that would be refused."""

from fastapi import APIRouter, Request

from meshbridge.admin.auth import Scope, needs
from meshbridge.fields import Options

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/token", tags=["bridge"])


class TokenScopes(Options):
    """Who a token belongs to, and its scopes, with those that they contain."""

    name: str
    scopes: tuple[Scope, ...]


@router.get("", dependencies=[needs(Scope.READ)])
async def get_token(request: Request) -> TokenScopes:
    """Whose token this is, and what it may do."""
    highest: Scope = request.state.scope
    return TokenScopes(name=request.state.caller, scopes=tuple(one for one in Scope if highest.contains(one)))
