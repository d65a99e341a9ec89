"""The emulator as a program of its own."""

import signal
import threading
from collections.abc import Callable

from meshbridge.emulator.emulator import Address, Emulator
from meshbridge.emulator.issuer import CLIENT_SECRET, CONFIDENTIAL_CLIENT, PUBLIC_CLIENT, REALM_PATH, TOKEN_PATH
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
    lines += [f"  CA    {emulator.ca_file}", f"  users {USERS}"]
    web = emulator.https_address or emulator.wss_address
    if emulator.issuer_address is not None:
        issuer = _joined(emulator.issuer_address)
        form = f"grant_type=password&client_id={PUBLIC_CLIENT}&username=admin&password=admin123"
        lines += [
            f"  OIDC  https://{issuer}{REALM_PATH}",
            f"  clients {PUBLIC_CLIENT} (for the users), {CONFIDENTIAL_CLIENT} / {CLIENT_SECRET} (its own)",
            f"Try: curl --cacert {emulator.ca_file} -d '{form}' https://{issuer}{TOKEN_PATH}",
        ]
    elif web is not None:
        lines.append(
            f"Try: curl --cacert {emulator.ca_file} -u admin:admin123 -X POST https://{_joined(web)}/appmesh/login"
        )
    lines.append("Stop with Ctrl-C.")
    print("\n".join(lines), flush=True)  # noqa: T201 this is what the command says


def _joined(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
