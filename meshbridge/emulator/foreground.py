"""The emulator as a program of its own."""

import signal
import threading
from collections.abc import Callable

from meshbridge.emulator.emulator import Address, Emulator
from meshbridge.emulator.issuer import (
    AUDIENCE,
    AUDIENCE_SCOPE,
    AUTOMATION_CLIENT,
    AUTOMATION_SECRET,
    DEFAULT_USERS,
    ISSUER,
    PUBLIC_CLIENT,
)
from meshbridge.emulator.issuer_web import AUTH_PATH, TOKEN_PATH
from meshbridge.emulator.settings import EmulatorOptions

USERS = "admin / admin123 (all rights), mesh / mesh123 (view), test / test123 (no role)"


def emulate(options: EmulatorOptions, ready: Callable[[Emulator], None] | None = None) -> None:
    """Runs an emulator until SIGINT or SIGTERM. Call it from the main thread.

    ``ready`` is called once the listeners are open; by default that prints what a person needs to try it.

    Raises:
        EmulatorError: it cannot run here; the message is one line.

    """
    stop = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Emulator(options) as emulator:
            (ready or introduce)(emulator)
            stop.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def introduce(emulator: Emulator) -> None:
    """Prints the addresses, the CA file, the users and a command to try."""
    lines = [f"App Mesh emulator {emulator.options.node_name}"]
    for name, scheme, address in (
        ("TCP", "tcp", emulator.tcp_address),
        ("WSS", "wss", emulator.wss_address),
        ("HTTPS", "https", emulator.https_address),
    ):
        if address is not None:
            lines.append(f"  {name:<6}{scheme}://{_joined(address)}")
    lines.append(f"  CA    {emulator.ca_file}")
    web = emulator.https_address or emulator.wss_address
    if emulator.options.dialect.has_issuer:
        lines += _introduce_issuer(emulator)
    elif web is not None:
        login = f"https://{_joined(web)}/appmesh/login"
        lines += [f"  users {USERS}", f"Try: curl --cacert {emulator.ca_file} -u admin:admin123 -X POST {login}"]
    lines.append("Stop with Ctrl-C.")
    print("\n".join(lines), flush=True)  # noqa: T201 this is what the command says


def _introduce_issuer(emulator: Emulator) -> list[str]:
    users = ", ".join(f"{email} / {password}" for email, password in DEFAULT_USERS.items())
    lines = [
        f"  users {users}",
        f"  client {AUTOMATION_CLIENT} / {AUTOMATION_SECRET}",
        f"  issuer {ISSUER}",
    ]
    places = []
    if emulator.issuer_address is not None:
        places.append(f"http://{_joined(emulator.issuer_address)}")
    if emulator.https_address is not None:
        places.append(f"https://{_joined(emulator.https_address)}")
    lines += [f"  reached at {place}{AUTH_PATH}" for place in places]
    if places:
        fields = {"username": "admin@appmesh.local", "password": DEFAULT_USERS["admin@appmesh.local"]}
        fields = {"grant_type": "password", **fields, "scope": f"openid {AUDIENCE_SCOPE}{AUDIENCE}"}
        form = " ".join(f"-d '{name}={value}'" for name, value in fields.items())
        lines.append(f"Try: curl --cacert {emulator.ca_file} -u {PUBLIC_CLIENT}: {form} {places[-1]}{TOKEN_PATH}")
    return lines


def _joined(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
