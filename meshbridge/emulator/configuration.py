"""The daemon's configuration and labels (``golden/exchanges.jsonl``: get_config, list_labels)."""

import copy
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshbridge.emulator.settings import EmulatorOptions
from meshbridge.emulator.store import AppStore
from meshbridge.emulator.tokens import ALGORITHM, AUDIENCES


class Configuration:
    """``BaseConfig``, ``REST`` and ``Labels``, as a client may read and change them."""

    def __init__(self, store: AppStore, values: dict[str, Any]) -> None:
        self._store = store
        self._values = values

    @classmethod
    def load(cls, store: AppStore, options: EmulatorOptions, version: str) -> "Configuration":
        values = _defaults(options, version)
        stored = store.read("config.json")
        if stored is not None:
            values["BaseConfig"] = stored["BaseConfig"]
            values["Labels"] = stored["Labels"]
        return cls(store, values)

    def shown(self) -> dict[str, Any]:
        return self._values

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self._values["Labels"]
        return labels

    @property
    def description(self) -> str:
        return str(self._values["BaseConfig"]["Description"])

    @property
    def metrics_have_apps(self) -> bool:
        return bool(self._values["REST"]["PrometheusExporterListenPort"])

    @property
    def allowed_origins(self) -> list[str]:
        return list(self._values["REST"]["CsrfAllowedOrigins"])

    def set_ports(self, *, tcp: int, wss: int, https: int) -> None:
        """What the kernel gave; 0 for a listener that is off."""
        self._values["REST"] |= {"RestTcpPort": tcp, "WebSocketPort": wss, "RestListenPort": https}

    def update(self, changes: Mapping[str, Any]) -> None:
        """Takes over the known keys of ``changes``.

        Raises:
            TypeError: a value of another type than the present one; nothing is changed then.

        """
        changed = copy.deepcopy(self._values)
        if isinstance(changes, Mapping):  # else it is ignored (measured)
            _merge(changed, changes)
        self._values = changed
        self.save()

    def save(self) -> None:
        self._store.write("config.json", self._values)


def _merge(into: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        present = into.get(key)
        if present is None:
            continue
        if isinstance(present, dict):
            if isinstance(value, Mapping):  # else it is ignored (measured)
                _merge(present, value)
        elif type(value) is not type(present):
            raise TypeError(f"{key} is of type {type(present).__name__}")
        else:
            into[key] = value


def _os_version() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _defaults(options: EmulatorOptions, version: str) -> dict[str, Any]:
    certificates = {"SSLCaPath": "ca", "SSLCertificateFile": "server", "SSLCertificateKeyFile": "server-key"}
    certificates |= {"SSLClientCertificateFile": "client", "SSLClientCertificateKeyFile": "client-key"}
    return {
        "BaseConfig": {
            "DefaultExecUser": "",
            "Description": "MYHOST",
            "DisableExecUser": False,
            "LogLevel": "INFO",
            "PosixTimezone": "8",
            "ScheduleIntervalSeconds": 1,
            "WorkingDirectory": "",
        },
        "Labels": {"HOST_NAME": options.node_name, "arch": platform.machine(), "os_version": _os_version()},
        "REST": {
            "CorsDisabled": False,
            "CsrfAllowedOrigins": [],
            "FileAllowedBaseDir": "",
            "IOThreadPoolSize": 2,
            "JWT": {
                "Algorithm": ALGORITHM,
                "Audience": list(AUDIENCES),
                "Issuer": options.node_name,
                "JWTSalt": "How_AreU!ApPMEsh",
                "SecurityInterface": "local",
            },
            "PasswordComplexityEnabled": False,
            "PrometheusExporterListenPort": options.prometheus_port,
            "RestEnabled": True,
            "RestListenAddress": options.host,
            "RestListenPort": 0,
            "RestTcpPort": 0,
            "SSL": {
                **{key: str(Path("ssl") / f"{name}.pem") for key, name in certificates.items()},
                "VerifyClient": options.verify_client,
                "VerifyServer": False,
                "VerifyServerDelegate": False,
            },
            "WebSocketPort": 0,
            "WorkerThreadPoolSize": 2,
        },
        "Version": version,
    }
