"""Every path of the daemon's API that this project asks for (docs/protocol.md). A test holds that there are no others.

Names in a path are one part of it: :func:`path_part` refuses what would ask for something else.
"""

from meshbridge.appmesh.exceptions import AppMeshRequestError

__all__ = ["is_fixed", "is_task", "path_part"]

# Tokens and logins of 2.x.
LOGIN = "/appmesh/login"
AUTH = "/appmesh/auth"
TOKEN_RENEW = "/appmesh/token/renew"  # noqa: S105 a path
LOGOFF = "/appmesh/self/logoff"
TOTP_SECRET = "/appmesh/totp/secret"  # noqa: S105 a path
TOTP_SETUP = "/appmesh/totp/setup"
TOTP_VALIDATE = "/appmesh/totp/validate"
# Tokens of 3.x.
AUTH_CONFIG = "/appmesh/auth/config"
# Users of 2.x.
USERS = "/appmesh/users"
USER_SELF = "/appmesh/user/self"
USER_GROUPS = "/appmesh/user/groups"
USER_PERMISSIONS = "/appmesh/user/permissions"
# Principals of 3.x.
PRINCIPALS = "/appmesh/principals"
PRINCIPAL_SELF = "/appmesh/principal/self"
PRINCIPAL_PERMISSIONS = "/appmesh/principal/self/permissions"
# Both.
APPS = "/appmesh/applications"
RUN = "/appmesh/app/run"
RUN_SYNC = "/appmesh/app/syncrun"
SUBSCRIBE = "/appmesh/subscribe"
EVENT = "/appmesh/event"  # not asked for: it marks a pushed event
RESOURCES = "/appmesh/resources"
METRICS = "/appmesh/metrics"
CONFIG = "/appmesh/config"
LABELS = "/appmesh/labels"
ROLES = "/appmesh/roles"
PERMISSIONS = "/appmesh/permissions"
FILE_UPLOAD = "/appmesh/file/upload"
FILE_DOWNLOAD = "/appmesh/file/download"

_FIXED = frozenset(value for name, value in list(globals().items()) if name.isupper() and isinstance(value, str))
# What these paths name may be missing itself, so that a 404 says nothing of the path.
_MAY_LACK = frozenset({LOGIN, AUTH, TOTP_VALIDATE, FILE_UPLOAD, FILE_DOWNLOAD, SUBSCRIBE})


def is_task(uri: str) -> bool:
    """Whether it is the path of an app's tasks."""
    return uri.startswith("/appmesh/app/") and uri.endswith("/task")


def path_part(name: str) -> str:
    """``name`` as one part of a path.

    Raises:
        AppMeshRequestError: it cannot be one: empty, or with a slash, which would ask for something else.

    """
    if not name or "/" in name or name in {".", ".."}:
        raise AppMeshRequestError(f"{name!r} is no name")
    return name


def is_fixed(uri: str) -> bool:
    """Whether a 404 to ``uri`` can only mean that the daemon does not know the path: it names nothing."""
    return uri in _FIXED and uri not in _MAY_LACK


def app(name: str, action: str = "") -> str:
    """An app, or what is done with it: ``enable``, ``disable``, ``health``, ``output``, ``task``, ``subscribe``."""
    return f"/appmesh/app/{path_part(name)}" + (f"/{action}" if action else "")


def user(name: str, action: str = "") -> str:
    """A user, or ``lock``, ``unlock``, ``passwd``."""
    return f"/appmesh/user/{path_part(name)}" + (f"/{action}" if action else "")


def totp_disable(user_name: str) -> str:
    return f"/appmesh/totp/{path_part(user_name)}/disable"


def principal(principal_id: str) -> str:
    return f"/appmesh/principal/{path_part(principal_id)}"


def role(name: str) -> str:
    return f"/appmesh/role/{path_part(name)}"


def label(name: str) -> str:
    return f"/appmesh/label/{path_part(name)}"


def file_transfer(uri: str) -> str:
    """Where the bytes of a file go over HTTPS on the WSS port, for :data:`FILE_UPLOAD` or :data:`FILE_DOWNLOAD`."""
    return f"{uri}/ws"
