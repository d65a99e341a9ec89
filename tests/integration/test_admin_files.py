"""Files through the admin API: streamed both ways, in constant memory, with nothing left of what broke off."""

from collections.abc import Iterator
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from typing import Any

import pytest

from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.journal import Journal, JournalOptions
from meshbridge.link import Link
from tests.integration.admin_api import Api, application_for, options_for, serving

SCHEMES = ["tcp", "wss", "https"]
MIB = 2**20


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions()) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def api(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    journal = Journal(JournalOptions(path=tmp_path_factory.mktemp("journal")))
    journal.open()
    links = [Link(scheme, options_for(emulator, scheme), journal) for scheme in SCHEMES]
    with serving(application_for(links, journal)) as served:
        yield served
    for link in links:
        assert link.stop(10)
    journal.close()


def url(daemon: str) -> str:
    return f"/api/v1/daemons/{daemon}/files"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_file_has_its_mode_both_ways(api: Api, scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    params = {"path": str(path), "mode": "0640"}
    lost: dict[str, Any] = {"attributes_kept": False} if scheme == "wss" else {}
    placed = {"path": str(path), "bytes": 5, **lost}
    assert api.json("PUT", url(scheme), 201, params=params, data=b"12345") == placed
    assert path.stat().st_mode & 0o777 == (0o644 if lost else 0o640)
    path.chmod(0o640)
    assert api.ask("GET", url(scheme), params={"path": str(path)}).headers["X-File-Mode"] == "0640"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("content", [b"", b"\x00\xff\r\n0\r\n\r\n" * 7])
def test_what_is_in_a_file_does_not_matter(api: Api, scheme: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert api.ask("PUT", url(scheme), params={"path": str(path)}, data=Exactly(content)).status_code == 201
    assert path.read_bytes() == content
    assert api.ask("GET", url(scheme), params={"path": str(path)}).content == content


class Exactly:
    """A body with a Content-Length, also where it is empty."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __len__(self) -> int:
        return len(self._content)

    def __iter__(self) -> Iterator[bytes]:
        yield self._content


@pytest.mark.parametrize("scheme", SCHEMES)
def test_refusals(api: Api, scheme: str, tmp_path: Path) -> None:
    there, none = tmp_path / "there", tmp_path / "none"
    there.write_bytes(b"x")
    exists = api.json("PUT", url(scheme), 409, params={"path": str(there)}, data=b"y")
    assert exists["detail"].startswith("file already exist")
    assert there.read_bytes() == b"x"
    assert api.json("GET", url(scheme), 404, params={"path": str(none)})["detail"].startswith("file not found")
    assert api.json("GET", url(scheme), 403, params={"path": "../etc/passwd"})["kind"] == "daemon-refused"
    unsized = api.json("PUT", url(scheme), 411, params={"path": str(none)}, data=iter([b"x"]))
    assert unsized["kind"] == "length-required"
    assert api.ask("PUT", url(scheme), params={"path": str(none), "mode": "rw"}, data=b"y").status_code == 422
    for method in ("GET", "PUT"):
        assert api.ask(method, url(scheme), params={"path": str(there)}, scope="operate").status_code == 403


def test_a_daemon_that_goes_in_the_middle_does_not_leave_half_a_file_that_looks_whole(
    api: Api, emulator: Emulator, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"\x00" * 60 * MIB)
    connection = HTTPConnection("127.0.0.1", api.port, timeout=60)
    connection.request("GET", f"{url('tcp')}?path={path}")
    response = connection.getresponse()
    assert response.status == 200
    came = len(response.read(MIB))
    emulator.drop_connections()
    with pytest.raises(IncompleteRead):  # the last chunk is missing
        while part := response.read(MIB):
            came += len(part)
    assert came < 60 * MIB
    response.close()
    connection.close()
