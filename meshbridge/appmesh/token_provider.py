"""Who gives a client its bearer tokens."""

__all__ = ["StaticAccessTokenProvider", "TokenProvider"]


class TokenProvider:
    """Gives a client its bearer tokens; the client itself then neither logs in nor renews. Called from many threads.

    A base to derive from: it has no token and can get none.
    """

    def get_access_token(self) -> str | None:
        """A token that is good now, None where there is none; may get one.

        Raises:
            AppMeshAuthError: there is none to be had with these credentials.
            AppMeshConnectionError, AppMeshIssuerError: the issuer cannot be reached.

        """
        return None

    def refresh_access_token(self, rejected_token: str | None = None) -> str | None:  # noqa: ARG002 for those that can
        """Another token than ``rejected_token``, which the daemon refused; None where there is none."""
        return None

    @property
    def can_refresh(self) -> bool:
        """Whether :meth:`refresh_access_token` is worth a try."""
        return False

    def clear(self) -> None:
        """Forgets the tokens."""


class StaticAccessTokenProvider(TokenProvider):
    """One token that the program got elsewhere."""

    def __init__(self, token: str) -> None:
        self._token: str | None = token

    def get_access_token(self) -> str | None:
        return self._token

    def clear(self) -> None:
        self._token = None
