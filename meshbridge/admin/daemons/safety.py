"""What would harm a daemon is refused before the daemon is asked (docs/daemons.md)."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from meshbridge.admin.daemons.calls import DaemonCall
from meshbridge.admin.problems import Problem, ProblemKind
from meshbridge.appmesh import AppMeshClient, AppMeshRequestError
from meshbridge.appmesh.harm import Harm

__all__ = ["refuse_harm", "refuse_own_user", "refuse_running_shell_app"]


def refuse_harm(ask: DaemonCall, harms: Sequence[Harm]) -> None:
    """Raises Problem: 422, with every place, what is wrong there and what to do."""
    if harms:
        errors = [{"where": f"body.{harm.where}", "problem": f"{harm.reason}: {harm.hint}"} for harm in harms]
        detail = "; ".join(str(harm) for harm in harms)
        raise _refusal(ask, detail, f"body.{harms[0].where}", harms[0].found, errors=errors)


def refuse_running_shell_app(ask: DaemonCall, client: AppMeshClient, app: str) -> None:
    """Raises Problem: 422, a shell app of that name runs; a new one would lose the script that both share."""
    try:
        present = client.get_app(app)
    except AppMeshRequestError:  # mostly: there is none
        return
    if present.shell and present.pid:
        detail = (
            f"the shell app {app!r} is running: on {ask.daemon} its end would remove the script of the new process, "
            f"which then ends with 127. Disable {app} (or delete it), wait for its EXIT, then register it again"
        )
        raise _refusal(ask, detail, "body.shell", "true")


def refuse_own_user(ask: DaemonCall, client: AppMeshClient, user: str, what: str) -> None:
    """Raises Problem: 422, it is the user that this bridge logs in with."""
    if user == "self" or client.get_current_user().get("name") == user:
        detail = f"{user!r} is the user of this bridge at {ask.daemon}: {what} would lock the bridge out"
        raise _refusal(ask, f"{detail}. Let the bridge log in as another user first", "user", user)


def _refusal(ask: DaemonCall, detail: str, where: str, found: str, **extra: Any) -> Problem:
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        detail,
        kind=ProblemKind.INVALID,
        daemon=ask.daemon,
        where=where,
        found=found,
        **extra,
    )
