"""``python -m meshbridge.emulator``: for tests that need the daemon as a process of its own.

Once it listens it prints one line of JSON:
``{"ready": true, "tcp": [host, port], "wss": …, "https": …, "issuer": …, "ca_file": …}``.
"""

import argparse
import json
import sys
from pathlib import Path

from meshbridge.emulator.dialects import DIALECTS
from meshbridge.emulator.emulator import Emulator
from meshbridge.emulator.errors import EmulatorError
from meshbridge.emulator.foreground import emulate
from meshbridge.emulator.settings import EmulatorOptions


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m meshbridge.emulator", description="An App Mesh daemon to test against"
    )
    for name in ("tcp", "wss", "https"):
        parser.add_argument(f"--{name}-port", type=int, default=0, help="0: a free one, -1: off")
    parser.add_argument("--data-dir", type=Path, help="keep the daemon there; default: a temporary directory")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--node-name", default="node-a")
    parser.add_argument("--generation", choices=list(DIALECTS), default="2")
    parser.add_argument("--issuer-port", type=int, default=0, help="of a daemon of 3.x; 0: a free one, -1: off")
    parser.add_argument("--prometheus-port", type=int, default=0)
    given = parser.parse_args(arguments)
    options = EmulatorOptions(
        host=given.host,
        tcp_port=_port(given.tcp_port),
        wss_port=_port(given.wss_port),
        https_port=_port(given.https_port),
        data_dir=given.data_dir,
        node_name=given.node_name,
        generation=given.generation,
        issuer_port=_port(given.issuer_port),
        prometheus_port=given.prometheus_port,
    )
    try:
        emulate(options, ready=_say_ready)
    except EmulatorError as error:
        print(error, file=sys.stderr)  # noqa: T201 the one line for a person
        return 1
    return 0


def _say_ready(emulator: Emulator) -> None:
    facts = {
        "ready": True,
        "tcp": emulator.tcp_address,
        "wss": emulator.wss_address,
        "https": emulator.https_address,
        "issuer": emulator.issuer_address,
        "ca_file": str(emulator.ca_file),
    }
    print(json.dumps(facts), flush=True)  # noqa: T201 what the starter reads


def _port(given: int) -> int | None:
    return None if given < 0 else given


if __name__ == "__main__":
    sys.exit(main())
