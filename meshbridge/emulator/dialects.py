"""What differs between the generations of daemons in words and manners (docs/protocol.md, 'App Mesh 3.x').

Inside, apps are described in the words of 2.x; a dialect turns them into the daemon's own at the border. Who may do
what is in :mod:`meshbridge.emulator.access`, which paths there are in :mod:`meshbridge.emulator.operations`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import unquote

from meshbridge.emulator.errors import RequestRefused

Generation = Literal["2", "3.0", "3"]

Values = Callable[[str], str]
"""Gives a value by its name; empty where there is none."""

_KILLED = 9
_BAD_REQUEST, _FORBIDDEN = 400, 403
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")


class Dialect:
    """2.x, and what the others have of it."""

    version = "appmesh_2.2.1"
    has_issuer = False
    """Tokens come from an issuer beside the daemon, whose principals take the place of users."""
    metrics_permission: str | None = None
    tells_of_refresh = False
    """``auth/config`` says whether the issuer gives refresh tokens."""
    pings = True
    """Over WSS. A daemon that sends none closes a connection on which nothing comes in for a time."""
    workers_without_upgrade_token_only = False
    """A WebSocket that was opened without a token is for workers alone."""
    answers_bad_messages = False
    """A message that cannot be read, but for its ``uuid``, gets 400."""
    bounds_bytes = False
    """A TCP client that does not read is cut off by the bytes that wait, not by the messages."""
    one_transfer = False
    """A second file on a TCP connection that carries one is refused."""
    drains_at_end = False
    """The last STDOUT of a process that had output to drain says ``finished``."""
    follows_principal = False
    """A subscription may be ended on each connection of the principal who made it."""
    probes_health = False
    """An app with a health command is unhealthy until that succeeds."""

    def signal_code(self, number: int, *, by_daemon: bool) -> int:  # noqa: ARG002 that of others
        """The exit code of a process that a signal ended; of one that the daemon did not send it knows nothing."""
        return _KILLED if by_daemon else 0

    def status_data(self, *, enabled: bool) -> dict[str, Any]:
        """The data of a ``STATUS`` event."""
        words = ("disabled", "enabled")
        return {"previous_status": words[not enabled], "status": words[enabled]}

    def app_json(self, fields: dict[str, Any], definition: Mapping[str, Any], display_name: str) -> dict[str, Any]:  # noqa: ARG002 that of others
        """An app as the daemon reports it; ``display_name``: of its owner."""
        return fields

    def definition(self, given: Any) -> Any:
        """An app as a client sends it, in the words used inside."""
        return given

    def resources(self, found: dict[str, Any]) -> dict[str, Any]:
        """The host's figures."""
        return found

    def file_path(self, given: str) -> str:
        """A path on the daemon's host, as its header has it."""
        return given

    def process_key(self, query: Values, header: Values, *, local: bool) -> str:  # noqa: ARG002 that of others
        """The key that a worker shows; ``local``: on a connection from this host."""
        return query("process_key")


class August(Dialect):
    """3.x of August 2026: logins at an issuer, and apps in the words of 2.x."""

    version = "appmesh_3.0.0"
    has_issuer = True
    metrics_permission: str | None = "host-resource-view"
    pings = False
    workers_without_upgrade_token_only = True
    answers_bad_messages = True
    bounds_bytes = True
    one_transfer = True
    drains_at_end = True
    follows_principal = True
    probes_health = True

    def signal_code(self, number: int, *, by_daemon: bool) -> int:  # noqa: ARG002 one and the same
        return number

    def app_json(self, fields: dict[str, Any], definition: Mapping[str, Any], display_name: str) -> dict[str, Any]:  # noqa: ARG002 that of others
        shown = dict(fields)
        shown["owner_principal_id"] = shown.pop("owner", "")
        return shown

    def definition(self, given: Any) -> Any:
        if isinstance(given, dict) and "owner" in given:
            raise RequestRefused(_BAD_REQUEST, "owner cannot be set")
        return given

    def resources(self, found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "fd_daemon": found["fd"]}

    def file_path(self, given: str) -> str:
        """Percent-encoded UTF-8; with an escape that is none it is taken as it is."""
        return given if _BAD_ESCAPE.search(given) else unquote(given, errors="surrogateescape")

    def process_key(self, query: Values, header: Values, *, local: bool) -> str:
        if query("process_key"):
            raise RequestRefused(_BAD_REQUEST, "process_key in the query is not supported, use X-AppMesh-Process-Key")
        key = header("X-AppMesh-Process-Key")
        if not key or not local:
            raise RequestRefused(_FORBIDDEN, "tasks are for the app's own process, with X-AppMesh-Process-Key")
        return key


class October(August):
    """3.x of October 2026: renamed fields, ``enabled`` as a boolean, and metrics for everyone."""

    version = "appmesh_3.0.14"
    metrics_permission = None
    workers_without_upgrade_token_only = False
    tells_of_refresh = True

    RENAMED: Mapping[str, str] = {
        "stdout_cache_num": "stdout_backup_count",
        "stdout_cache_size": "stdout_file_count",
        "retention": "stop_grace_period",
        "sec_env": "secret_env",
        "owner": "owner_principal_id",
    }
    """What is called so inside, and what it is called here."""
    GONE = ("status", "version", "cron", "start_interval_seconds")
    """Words of 2.x; a daemon of October ignores them where a client sends them."""

    def status_data(self, *, enabled: bool) -> dict[str, Any]:
        return {"enabled": enabled, "previous_enabled": not enabled}

    def app_json(self, fields: dict[str, Any], definition: Mapping[str, Any], display_name: str) -> dict[str, Any]:
        """Nothing marks a one-off run: it is not enabled."""
        shown = {self.RENAMED.get(name, name): value for name, value in fields.items() if name not in self.GONE}
        shown["enabled"] = fields.get("status") == 1
        if display_name:
            shown["owner_display_name"] = display_name
        if "start_interval_seconds" in fields:
            key = "cron_schedule" if fields.get("cron") else "interval"
            shown[key] = fields["start_interval_seconds"]
        if "depends_on" in definition:
            shown["depends_on"] = definition["depends_on"]
        shown["behavior"] = _renamed(fields["behavior"], "control", "exit_code_actions")
        shown["system"] = False
        return shown

    def definition(self, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if given.get("interval") and given.get("cron_schedule"):
            raise RequestRefused(_BAD_REQUEST, "interval and cron_schedule cannot both be set")
        inside = {newer: older for older, newer in self.RENAMED.items()}
        known = super().definition({key: value for key, value in given.items() if key not in self.GONE})
        read = {inside.get(key, key): value for key, value in known.items() if key not in self.RENAMED}
        if "enabled" in read:
            read["status"] = int(read.pop("enabled"))
        if cron := read.pop("cron_schedule", None):
            read |= {"start_interval_seconds": cron, "cron": True}
        if interval := read.pop("interval", None):
            read["start_interval_seconds"] = interval
        if isinstance(read.get("behavior"), dict):
            behavior = {key: value for key, value in read["behavior"].items() if key != "control"}
            read["behavior"] = _renamed(behavior, "exit_code_actions", "control")
        return read


def _renamed(values: Mapping[str, Any], name: str, other: str) -> dict[str, Any]:
    return {other if key == name else key: value for key, value in values.items()}


DIALECTS: Mapping[Generation, Dialect] = {"2": Dialect(), "3.0": August(), "3": October()}
