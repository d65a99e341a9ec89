"""The client: every operation of a daemon, each once, over one request path.

Over HTTPS here; in :mod:`~meshbridge.appmesh.client_tcp` and :mod:`~meshbridge.appmesh.client_wss` over a connection
that also carries events. Beneath it are ``client_session`` (tokens, requests) and ``client_files``.
"""

import base64
import logging
import math
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson

from meshbridge.appmesh import dialect, paths
from meshbridge.appmesh.answers import integer_header, json_of, reason_of, text_of
from meshbridge.appmesh.app import App, request_of
from meshbridge.appmesh.app_output import AppOutput
from meshbridge.appmesh.app_run import AppRun, OutputHandler, print_output_handler
from meshbridge.appmesh.client_files import FileOperations
from meshbridge.appmesh.durations import seconds_of
from meshbridge.appmesh.exceptions import (
    AppMeshAuthError,
    AppMeshDeniedError,
    AppMeshError,
    AppMeshIssuerError,
    AppMeshLoginError,
    AppMeshNotOfferedError,
    AppMeshRequestError,
)
from meshbridge.appmesh.exchange import Exchange
from meshbridge.appmesh.harm import harms_of_app, harms_of_configuration, harms_of_label, harms_of_user, refuse_harm
from meshbridge.appmesh.run_output import READ_BYTES, RunOutput
from meshbridge.appmesh.subscribe import SubscriptionResult
from meshbridge.appmesh.tcp_messages import ResponseMessage

__all__ = ["AppMeshClient"]

logger = logging.getLogger(__name__)

_JSON = {"Content-Type": "application/json"}
_EXIT_CODE, _OUTPUT_POSITION = "X-Exit-Code", "X-Output-Position"

MAX_OUTPUT_BYTES = 3 * 2**20  # the most that a daemon gives at once
_MAX_UNIX_SECONDS = 253_402_300_799  # the end of the year 9999
_POLL_SECONDS = 1  # for the end of the process; output alone does not end the daemon's wait
_POLL_PAUSE_SECONDS = 0.05  # for a daemon that does not wait


class AppMeshClient(FileOperations):
    """A daemon's operations over HTTPS.

    One client may be used from many threads at once. :meth:`close` it, or use it as a context manager.

    All errors are :class:`~meshbridge.appmesh.exceptions.AppMeshError`, save those of local files (``OSError``) and of
    arguments that make no sense (``ValueError``, ``TypeError``).
    """

    supports_events = False
    """Whether it carries events: over TCP and WSS."""
    # Over HTTPS the usual timeout: the daemon sees the connection end, and assigns no task to a worker that has left.
    _FETCH_SECONDS = 0.0

    # --- applications --------------------------------------------------------------------------------------------

    def list_apps(self) -> list[App]:
        """All applications that the user may see, one-off runs among them (``status`` 2)."""
        return [App(fields) for fields in self.list_apps_json()]

    def list_apps_json(self) -> list[dict[str, Any]]:
        """As :meth:`list_apps`, in the daemon's own JSON: what is no object is left out."""
        return [fields for fields in json_of(self._request("GET", paths.APPS), list) if isinstance(fields, dict)]

    def get_app(self, app_name: str) -> App:
        return App(self.get_app_json(app_name))

    def get_app_json(self, app_name: str) -> dict[str, Any]:
        """As :meth:`get_app`, in the daemon's own JSON."""
        return json_of(self._request("GET", paths.app(app_name)), dict)

    def check_app_health(self, app_name: str) -> bool:
        """Whether it is healthy: its process runs, and its health check (if it has one) succeeds."""
        return text_of(self._request("GET", paths.app(app_name, "health"))).strip() == "0"

    def add_app(self, app: App, subscribe_events: list[str] | None = None, *, unsafe: bool = False) -> App:
        """Registers an application, or registers it again, and gives it as the daemon has it.

        ``subscribe_events`` counts on TCP and WSS only; over HTTPS there is no way back for events. Before you register
        a running shell application again, disable it and wait for its EXIT: a daemon of 2.x may end the new process
        with 127.

        Raises:
            AppMeshUnsafeError: it would stop the daemon; ``unsafe`` sends it. What only costs the app itself after
                the daemon's next start is a warning (:class:`AppMeshUnsafeWarning`).
            ValueError: a time is none.

        """
        return self._add_app(app, subscribe_events if self.supports_events else None, unsafe=unsafe)

    def _add_app(
        self, app: App, subscribe_events: list[str] | None, over: Exchange | None = None, *, unsafe: bool = False
    ) -> App:
        fields = self._in_dialect(request_of(app))
        refuse_harm(harms_of_app(fields), "add_app", unsafe=unsafe)
        response = self._request(
            "PUT",
            paths.app(app.name or ""),
            query={"subscribe_events": ",".join(subscribe_events)} if subscribe_events else None,
            headers=_JSON,
            body=_dump(fields),
            over=over,
        )
        added = App(json_of(response, dict))
        if app.shell and (added.starts or 0) > 1:
            logger.warning(
                "the shell application %s was registered again: if its process was running, the new one may end with "
                "127; disable it and wait for its EXIT before",
                app.name,
            )
        return added

    def delete_app(self, app_name: str) -> bool:
        """Removes an application and ends its process; False where there is none of that name."""
        uri = paths.app(app_name)
        return self._request("DELETE", uri, accept=(HTTPStatus.NOT_FOUND,)).http_status == HTTPStatus.OK

    def enable_app(self, app_name: str) -> None:
        self._request("POST", paths.app(app_name, "enable"))

    def disable_app(self, app_name: str) -> None:
        """Stops an application and keeps it from being started."""
        self._request("POST", paths.app(app_name, "disable"))

    def get_app_output(  # noqa: PLR0917 as the reference has it
        self,
        app_name: str,
        stdout_position: int = 0,
        stdout_index: int = 0,
        stdout_maxsize: int = 10240,
        process_uuid: str = "",
        timeout: int = 0,
    ) -> AppOutput:
        """A piece of an application's output.

        Args:
            app_name: which application.
            stdout_position: where to begin, in bytes; ``out_position`` of one call goes here in the next.
            stdout_index: 0 for the present (or last) process, 1 for the one before, and so on.
            stdout_maxsize: at most so many bytes; the daemon takes less than 1,024 or more than 3 MiB for 3 MiB.
            process_uuid: only if it is this process; with another the status is 417.
            timeout: seconds to wait for the **end of the process**, not for output.

        """
        response = self._output(app_name, stdout_position, stdout_maxsize, process_uuid, timeout, stdout_index)
        status = response.http_status
        return AppOutput(
            status_code=HTTPStatus(status) if status in HTTPStatus._value2member_map_ else status,  # type: ignore[arg-type] # a status that has no name is given as it is
            output=text_of(response) if status == HTTPStatus.OK else reason_of(response, ""),
            out_position=integer_header(response, _OUTPUT_POSITION),
            exit_code=integer_header(response, _EXIT_CODE),
        )

    def read_output(
        self, app_name: str, position: int, *, index: int = 0, process_uuid: str = "", maxsize: int = MAX_OUTPUT_BYTES
    ) -> bytes | None:
        """A piece of output as the bytes that it is; None where the daemon does not keep it (any more).

        Arguments are those of :meth:`get_app_output`.
        """
        response = self._output(app_name, position, maxsize, process_uuid, index=index)
        return response.body if response.http_status == HTTPStatus.OK else None

    def _output(  # noqa: PLR0917 called by get_app_output's names
        self, app_name: str, position: int, maxsize: int, process_uuid: str = "", timeout: int = 0, index: int = 0
    ) -> ResponseMessage:
        query = {
            "stdout_position": position,
            "stdout_index": index,
            "stdout_maxsize": maxsize,
            "process_uuid": process_uuid,
            "timeout": timeout,
        }
        return self._request(
            "GET",
            paths.app(app_name, "output"),
            query={name: value for name, value in query.items() if value},
            accept=(HTTPStatus.NOT_FOUND, HTTPStatus.EXPECTATION_FAILED),
            waits_seconds=timeout,
        )

    # --- runs and tasks ------------------------------------------------------------------------------------------

    def run_app_async(self, app: App | str, max_time: int | str = "P2D", lifecycle: int | str = "P2DT12H") -> AppRun:
        """Starts a run of its own of a command (a text is run by the shell) or of an existing application (its name).

        ``max_time`` is how long it may run, ``lifecycle`` how long the daemon remembers it; in seconds, or ISO 8601
        durations.
        """
        answer = json_of(self._run(paths.RUN, app, max_time, lifecycle, waits_seconds=0), dict)
        return AppRun(self, str(answer.get("name") or ""), str(answer.get("process_uuid") or ""))

    def run_app_sync(
        self, app: App | str, max_time: int | str = "P2D", lifecycle: int | str = "P2DT12H"
    ) -> tuple[int | None, str]:
        """As :meth:`run_app_async`, and waits for the end: (exit code, output).

        The code is 9 where ``max_time`` cut it off, None where the daemon gave none.
        """
        response = self._run(paths.RUN_SYNC, app, max_time, lifecycle, waits_seconds=seconds_of(max_time))
        return integer_header(response, _EXIT_CODE), text_of(response)

    def _run(
        self, uri: str, app: App | str, max_time: int | str, lifecycle: int | str, waits_seconds: float
    ) -> ResponseMessage:
        if isinstance(app, str):
            app = App({"command": app, "shell": True})
        fields = self._in_dialect(request_of(app))
        refuse_harm([harm for harm in harms_of_app(fields) if harm.stops_daemon], uri, unsafe=False)
        return self._request(
            "POST",
            uri,
            query={"timeout": seconds_of(max_time), "lifecycle": seconds_of(lifecycle)},
            headers=_JSON,
            body=_dump(fields),
            waits_seconds=waits_seconds,
        )

    def _in_dialect(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Settings in the words that the daemon takes; it is asked only where they differ."""
        older, newer = (dialect.request_fields(fields, october=october) for october in (False, True))
        if older == newer:
            return older
        unasked = self._provider is None and self._generations.get(self._forward_header()) != 3  # noqa: PLR2004
        if fields == older and unasked:
            return fields  # words of 2.x, at a daemon that nothing says is another
        return newer if self._speaks_october() else older

    def _speaks_october(self) -> bool:
        """Whether the daemon has the app JSON of October 2026: told by any app of its list, never by a version."""
        node = self._forward_header()
        if node not in self._october:
            if self._generation() != 3:  # noqa: PLR2004 only those of 3.x can
                return False
            apps = self.list_apps_json()
            if not apps:
                return True
            self._october[node] = dialect.is_october(apps[0])
        return self._october[node]

    def wait_for_async_run(
        self,
        run: AppRun,
        print_stdout: bool | OutputHandler = True,
        timeout: int = 0,
        *,
        stdout_handler: OutputHandler = None,
    ) -> int | None:
        """Waits for a run to end and gives its exit code; the run is then removed from the daemon.

        Args:
            run: what :meth:`run_app_async` gave.
            print_stdout: whether to print its output, or a function that gets each piece of it and its position.
            timeout: at most so many seconds, 0 for ever.
            stdout_handler: as ``print_stdout``, by its name in the SDK of 3.x.

        Returns:
            The exit code; None when ``timeout`` passed, or the daemon does not know the run (any more).

        """
        return self._poll_run(run, stdout_handler or _handler(print_stdout), timeout)

    def _poll_run(self, run: AppRun, handler: OutputHandler, timeout: float) -> int | None:
        """Waits for ``run`` by asking for its output again and again."""
        deadline = time.monotonic() + timeout if timeout > 0 else math.inf
        with run.forward_to():
            output = self._run_output(run, handler)
            while True:
                asked, position = time.monotonic(), output.position
                try:
                    output.pull(math.ceil(max(0, min(_POLL_SECONDS, deadline - asked))))
                except AppMeshRequestError as error:
                    logger.warning("the run %s can no longer be followed: %s", run.app_name, error)
                    return None
                if output.exit_code is not None:
                    self._delete_run(run)
                    return output.exit_code
                now = time.monotonic()
                if now >= deadline:
                    return None
                if position == output.position and now - asked < _POLL_PAUSE_SECONDS:
                    time.sleep(_POLL_PAUSE_SECONDS)

    def _run_output(self, run: AppRun, handler: OutputHandler) -> RunOutput:
        def fetch(position: int, wait_seconds: int) -> ResponseMessage:
            return self._output(run.app_name, position, READ_BYTES, run.proc_uid, wait_seconds)

        return RunOutput(fetch, handler)

    def _delete_run(self, run: AppRun) -> None:
        try:
            self.delete_app(run.app_name)
        except AppMeshError as error:  # it goes by itself once its lifecycle is over
            logger.debug("the run %s could not be removed: %s", run.app_name, error)

    def run_task(self, app_name: str, data: str | bytes | Mapping[str, Any], timeout: int = 300) -> str:
        """Hands ``data`` to a running application (``AppMeshServer.task_fetch``) and gives what it returns.

        ``timeout``: at most so many seconds. What is no UTF-8 in the answer is U+FFFD.
        """
        return text_of(self._task(app_name, data, timeout))

    def run_task_bytes(self, app_name: str, data: str | bytes | Mapping[str, Any], timeout: int = 300) -> bytes:
        """As :meth:`run_task`, and gives the bytes that the application returned. Not in the official SDK."""
        return self._task(app_name, data, timeout).body

    def _task(self, app_name: str, data: str | bytes | Mapping[str, Any], timeout: int) -> ResponseMessage:
        headers = _JSON if isinstance(data, Mapping) else None
        body = _dump(data) if isinstance(data, Mapping) else data.encode() if isinstance(data, str) else bytes(data)
        return self._request(
            "POST",
            paths.app(app_name, "task"),
            query={"timeout": timeout},
            headers=headers,
            body=body,
            waits_seconds=timeout,
        )

    def cancel_task(self, app_name: str) -> bool:
        """Cancels what :meth:`run_task` asked for; False where there is nothing to cancel."""
        response = self._request(
            "DELETE",
            paths.app(app_name, "task"),
            accept=(HTTPStatus.ALREADY_REPORTED, HTTPStatus.NOT_FOUND),
        )
        return response.http_status == HTTPStatus.OK

    def _fetch_task(self, app_name: str, process_key: str) -> bytes:
        """What the next :meth:`run_task` hands to this process; waits for it. ``AppMeshServer`` calls it."""
        return self._of_process("GET", app_name, process_key, waits_seconds=self._FETCH_SECONDS).body

    def _return_task(self, app_name: str, process_key: str, result: bytes) -> None:
        self._of_process("PUT", app_name, process_key, body=result)

    def _of_process(
        self, method: str, app_name: str, key: str, *, body: bytes = b"", waits_seconds: float = 0
    ) -> ResponseMessage:
        """By the process's key alone: daemons of 3.x refuse it in the query, those of 2.x know no header."""
        node = self._forward_header()
        newer = self._generations.get(node) == 3  # noqa: PLR2004 as told above
        try:
            return self._of_process_by(newer, method, app_name, key, body, waits_seconds)
        except (AppMeshRequestError, AppMeshAuthError) as error:
            refused = error.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN}
            if not refused or self._generations.get(node) is not None or self._generation() != 3:  # noqa: PLR2004
                raise
        return self._of_process_by(True, method, app_name, key, body, waits_seconds)

    def _of_process_by(  # noqa: PLR0917 called in one place
        self, newer: bool, method: str, app_name: str, key: str, body: bytes, waits_seconds: float
    ) -> ResponseMessage:
        return self._request(
            method,
            paths.app(app_name, "task"),
            query=None if newer else {"process_key": key},
            headers={"X-AppMesh-Process-Key": key} if newer else None,
            body=body,
            waits_seconds=waits_seconds,
            authorize=False,
        )

    # --- the daemon ----------------------------------------------------------------------------------------------

    def get_host_resources(self) -> dict[str, Any]:
        """The host's processors, memory, disks and network, and when the daemon was started."""
        return json_of(self._request("GET", paths.RESOURCES), dict)

    def get_metrics(self) -> str:
        """The daemon's metrics, in Prometheus's text format; most daemons ask for no token."""
        return self.get_metrics_bytes().decode("utf-8", "replace")

    def get_metrics_bytes(self) -> bytes:
        """As :meth:`get_metrics`, not decoded."""
        try:
            return self._request("GET", paths.METRICS).body
        except (AppMeshLoginError, AppMeshIssuerError):  # no token to be had
            return self._request("GET", paths.METRICS, authorize=False).body

    def get_start_time(self) -> int:
        """When the daemon was started, in unix seconds: it names the daemon's run, and so the numbering of events."""
        seconds = self.get_host_resources().get("appmesh_start_time_unix_seconds")
        if not isinstance(seconds, int | float) or not 0 <= seconds <= _MAX_UNIX_SECONDS:
            raise AppMeshRequestError(
                "the daemon does not say when it started", status=HTTPStatus.OK, operation=f"GET {paths.RESOURCES}"
            )
        return int(seconds)

    def request_subscription(
        self, app_name: str, events: Sequence[str] | None = None, *, over: Exchange | None = None
    ) -> SubscriptionResult:
        """Has the daemon push events of an application, or of all (``*``), on this client's connection.

        For an exchange that takes pushed events itself, such as a :class:`~meshbridge.appmesh.channel.Channel`; the
        clients over TCP and WSS have ``subscribe``, with callbacks. Over HTTPS a daemon refuses it.
        """
        uri = paths.SUBSCRIBE if app_name == "*" else paths.app(app_name, "subscribe")
        query = {"events": ",".join(events)} if events else None
        answer = json_of(self._request("POST", uri, query=query, over=over), dict)
        named = answer.get("events")
        return SubscriptionResult(
            str(answer.get("subscription_id") or ""),
            str(answer.get("app_name") or ""),
            [str(event) for event in named] if isinstance(named, list) else [],
        )

    def get_config(self) -> dict[str, Any]:
        return json_of(self._request("GET", paths.CONFIG), dict)

    def set_config(self, config: Mapping[str, Any], *, unsafe: bool = False) -> dict[str, Any]:
        """Changes the parts of the configuration that ``config`` has; gives all of it.

        Raises:
            AppMeshUnsafeError: the daemon would not start again; ``unsafe`` sends it.

        """
        refuse_harm(harms_of_configuration(config), "set_config", unsafe=unsafe)
        return json_of(self._request("POST", paths.CONFIG, headers=_JSON, body=_dump(config)), dict)

    def set_log_level(self, level: str = "DEBUG") -> str:
        """Sets how much the daemon logs (it takes any text), and gives what it is now."""
        base = self.set_config({"BaseConfig": {"LogLevel": level}}).get("BaseConfig")
        return str(base.get("LogLevel", level)) if isinstance(base, dict) else level

    def list_labels(self) -> dict[str, str]:
        return json_of(self._request("GET", paths.LABELS), dict)

    def add_label(self, label_name: str, label_value: str, *, unsafe: bool = False) -> None:
        """Sets a label.

        Raises:
            AppMeshUnsafeError: the daemon would not start again; ``unsafe`` sends it.

        """
        refuse_harm(harms_of_label(label_value), "add_label", unsafe=unsafe)
        self._request("PUT", paths.label(label_name), query={"value": label_value})

    def delete_label(self, label_name: str) -> None:
        """Removes a label; no error where there is none."""
        self._request("DELETE", paths.label(label_name))

    # --- users, roles, permissions -------------------------------------------------------------------------------

    def list_users(self) -> dict[str, Any]:
        """All users by name, without their passwords."""
        return json_of(self._request_of(2, "GET", paths.USERS), dict)

    def get_current_user(self) -> dict[str, Any]:
        return json_of(self._request_of(2, "GET", paths.USER_SELF), dict)

    def add_user(self, username: str, user_data: Mapping[str, Any], *, unsafe: bool = False) -> None:
        """Adds or changes a user: ``key`` (the password), ``roles``, ``group``, ``email``, ``exec_user``.

        Raises:
            AppMeshUnsafeError: the daemon would not start again; ``unsafe`` sends it.

        """
        refuse_harm(harms_of_user(user_data), "add_user", unsafe=unsafe)
        self._request_of(2, "PUT", paths.user(username), headers=_JSON, body=_dump(user_data))

    def delete_user(self, username: str) -> None:
        self._request_of(2, "DELETE", paths.user(username))

    def lock_user(self, username: str) -> None:
        """Keeps a user from logging in."""
        self._request_of(2, "POST", paths.user(username, "lock"))

    def unlock_user(self, username: str) -> None:
        self._request_of(2, "POST", paths.user(username, "unlock"))

    def update_password(self, old_password: str, new_password: str, username: str = "self") -> None:
        """Changes a password. The user's tokens are revoked by it, the client's own among them: log in again."""
        passwords = {"old_password": old_password, "new_password": new_password}
        self._request_of(
            2,
            "POST",
            paths.user(username, "passwd"),
            headers=_JSON,
            body=_dump({name: base64.b64encode(text.encode()).decode() for name, text in passwords.items()}),
        )

    def list_groups(self) -> list[str]:
        return json_of(self._request_of(2, "GET", paths.USER_GROUPS), list)

    def list_permissions(self) -> list[str]:
        """Every permission that there is."""
        return json_of(self._request("GET", paths.PERMISSIONS), list)

    def get_user_permissions(self) -> list[str]:
        """What the user of this client may do."""
        return json_of(self._request_of(2, "GET", paths.USER_PERMISSIONS), list)

    def list_own_permissions(self) -> frozenset[str] | None:
        """What the owner of the client's token may do, at a daemon of either generation; None where it does not say."""
        for uri in (paths.USER_PERMISSIONS, paths.PRINCIPAL_PERMISSIONS):
            try:
                granted = json_of(self._request("GET", uri), list)
            except AppMeshNotOfferedError:
                continue  # of the other generation
            except (AppMeshDeniedError, AppMeshRequestError):
                return None
            return frozenset(str(name) for name in granted)
        return None

    def list_roles(self) -> dict[str, Any]:
        """All roles by name, with their permissions."""
        return json_of(self._request("GET", paths.ROLES), dict)

    def update_role(self, role_name: str, permission_set: list[str]) -> None:
        """Adds a role, or replaces its permissions; the daemon takes names that are no permission, too."""
        self._request("POST", paths.role(role_name), headers=_JSON, body=_dump(list(permission_set)))

    def delete_role(self, role_name: str) -> None:
        self._request("DELETE", paths.role(role_name))

    # --- principals, of daemons of 3.x -----------------------------------------------------------------------------

    def list_principals(self) -> Any:
        """Lists the principals that the daemon knows by their tokens."""
        return json_of(self._request_of(3, "GET", paths.PRINCIPALS), object)

    def get_current_principal(self) -> dict[str, Any]:
        return json_of(self._request_of(3, "GET", paths.PRINCIPAL_SELF), dict)

    def get_principal_permissions(self) -> list[str]:
        """What the principal of this client's token may do."""
        return json_of(self._request_of(3, "GET", paths.PRINCIPAL_PERMISSIONS), list)

    def update_principal(self, principal_id: str, principal_data: Mapping[str, Any]) -> None:
        """Adds or changes a principal: ``roles``, ``status``, ``execution_user``."""
        uri = paths.principal(principal_id)
        self._request_of(3, "POST", uri, headers=_JSON, body=_dump(principal_data))

    def delete_principal(self, principal_id: str) -> None:
        """Removes a principal; the daemon refuses that (403) while it owns apps."""
        uri = paths.principal(principal_id)
        self._request_of(3, "DELETE", uri, accept=(HTTPStatus.NO_CONTENT,))


def _handler(print_stdout: bool | OutputHandler) -> OutputHandler:
    if isinstance(print_stdout, bool):
        return print_output_handler if print_stdout else None
    return print_stdout


def _dump(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
