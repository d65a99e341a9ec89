"""Large files through the installed program, whose memory does not grow with them: 64 MiB, 1 GiB in ``make faults``."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from meshbridge.admin.tokens import digest, new_token
from meshbridge.emulator import Emulator, EmulatorOptions
from tests.e2e.conftest import Bridge
from tests.support import free_port

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
SIZES = {"short": 64 * MIB, "long": 1024 * MIB}
MOST_GROWTH = 24 * MIB


@pytest.fixture(scope="module")
def size(request: pytest.FixtureRequest) -> int:
    return SIZES[request.config.getoption("--faults")]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions()) as daemon:
        yield daemon


class Api:
    """The admin API of a running bridge, and that bridge's memory."""

    def __init__(self, url: str, token: str, pid: int) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {token}"
        self._process = Path("/proc") / str(pid)

    def files(self, daemon: str) -> str:
        return f"{self.url}/api/v1/daemons/{daemon}/files"

    def resident_bytes(self, field: str) -> int:
        """``VmRSS``: now; ``VmHWM``: at most, since :meth:`forget_peak`."""
        (line,) = (
            line for line in (self._process / "status").read_text(encoding="ascii").splitlines() if field in line
        )
        return int(line.split()[1]) * 1024

    def forget_peak(self) -> None:
        (self._process / "clear_refs").write_text("5", encoding="ascii")


@pytest.fixture(scope="module")
def api(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    addresses = {"tcp": emulator.tcp_address, "wss": emulator.wss_address, "https": emulator.https_address}
    token, port = new_token(), free_port()
    settings = {
        "daemons": {
            scheme: {
                "url": f"{scheme}://{address[0]}:{address[1]}",
                "username": "admin",
                "password": "admin123",
                "tls": {"ca_file": str(emulator.ca_file)},
            }
            for scheme, address in addresses.items()
            if address is not None
        },
        "admin": {
            "listen": f"127.0.0.1:{port}",
            "tokens": [{"name": "files", "sha256": digest(token), "scopes": ["admin"]}],
        },
    }
    bridge = Bridge(tmp_path_factory.mktemp("bridge"), settings)
    process = bridge.start()
    bridge.wait_up()
    made = Api(f"http://127.0.0.1:{port}", token, process.popen.pid)
    yield made
    made.session.close()
    assert process.end() == 0
    assert token not in process.output()
    bridge.close()


class Body:
    """So many bytes of the same block over and over, and what they hash to."""

    def __init__(self, size: int) -> None:
        self._block = os.urandom(MIB)
        self._size = self._left = size
        self.hash = hashlib.blake2b()

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = MIB) -> bytes:
        part = self._block[: min(size, self._left)]
        self._left -= len(part)
        self.hash.update(part)
        return part


def growth(api: Api, before: int) -> int:
    return api.resident_bytes("VmHWM") - before


@pytest.mark.parametrize("scheme", ["tcp", "wss", "https"])
def test_a_large_file_goes_up_and_down_in_constant_memory(api: Api, scheme: str, size: int, tmp_path: Path) -> None:
    small, large = {"path": str(tmp_path / "small")}, {"path": str(tmp_path / "large"), "mode": "0640"}
    assert api.session.put(api.files(scheme), params=small, data=Body(MIB), timeout=60).status_code == 201
    assert len(api.session.get(api.files(scheme), params=small, timeout=60).content) == MIB
    api.forget_peak()
    before = api.resident_bytes("VmRSS")

    body = Body(size)
    response = api.session.put(api.files(scheme), params=large, data=body, timeout=600)
    answer = response.json()
    assert (response.status_code, answer["path"], answer["bytes"]) == (201, large["path"], size)
    assert (tmp_path / "large").stat().st_size == size
    assert growth(api, before) < MOST_GROWTH

    came = hashlib.blake2b()
    with api.session.get(api.files(scheme), params={"path": large["path"]}, stream=True, timeout=600) as response:
        assert response.status_code == 200
        assert response.headers["X-File-Mode"] == (
            "0644" if scheme == "wss" else "0640"
        )  # an upload over WSS keeps no mode
        for chunk in response.iter_content(MIB):
            came.update(chunk)
    assert came.digest() == body.hash.digest()
    assert growth(api, before) < MOST_GROWTH
    (tmp_path / "large").unlink()
