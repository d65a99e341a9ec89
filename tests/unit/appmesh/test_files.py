"""Files on this host: attributes, replacing, and bodies that are read as they are sent."""

import grp
import os
import pwd
import stat
from pathlib import Path

import pytest

from meshbridge.appmesh.files import MultipartFile, apply_attributes, file_attributes, open_local, replacing

USER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def write(path: Path, data: bytes, attributes: dict[str, str] | None = None) -> None:
    with replacing(str(path), attributes or {}) as file:
        file.write(data)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_in_its_place_only_once_it_is_whole(directory: Path) -> None:
    target = directory / "target"
    target.write_bytes(b"old")
    with replacing(str(target), {}) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert [entry.name for entry in directory.iterdir()] == ["target"]


def test_a_failed_transfer_leaves_the_old_file_and_nothing_else(directory: Path) -> None:
    target = directory / "target"
    target.write_bytes(b"old")

    class LostError(Exception): ...

    def fail() -> None:
        with replacing(str(target), {}) as file:
            file.write(b"half")
            raise LostError

    with pytest.raises(LostError):
        fail()
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in directory.iterdir()] == ["target"]


def test_a_new_file_has_the_usual_mode_and_a_replaced_one_keeps_its_own(directory: Path) -> None:
    target, usual = directory / "target", directory / "usual"
    usual.touch()
    write(target, b"x")
    assert mode(target) == mode(usual)
    target.chmod(0o640)
    write(target, b"y")
    assert mode(target) == 0o640


def test_mode_owner_and_group_come_along(directory: Path) -> None:
    target = directory / "target"
    write(target, b"x", {"X-File-Mode": str(0o750), "X-File-User": USER, "X-File-Group": GROUP})
    assert mode(target) == 0o750
    assert file_attributes(str(target)) == {"X-File-Mode": str(0o750), "X-File-User": USER, "X-File-Group": GROUP}


def test_a_file_that_gets_a_mode_is_never_open_to_more(directory: Path) -> None:
    with replacing(str(directory / "secret"), {"X-File-Mode": str(0o600)}):
        (new,) = directory.iterdir()
        assert mode(new) == 0o600


@pytest.mark.parametrize(
    "attributes", [{"X-File-Mode": "x"}, {"X-File-User": "no-such-user-here"}, {"X-File-Group": "no-such-group-here"}]
)
def test_attributes_that_cannot_be_had_are_left(directory: Path, attributes: dict[str, str]) -> None:
    target = directory / "target"
    target.touch()
    apply_attributes(str(target), attributes)
    write(target, b"x", attributes)
    assert target.read_bytes() == b"x"


def test_a_link_stays_a_link(directory: Path) -> None:
    target, link = directory / "target", directory / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_device_is_written_to_and_not_replaced() -> None:
    write(Path("/dev/null"), b"x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_only_files_are_sent(directory: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Local file not found"):
        open_local(str(directory / "none"))
    with pytest.raises(FileNotFoundError):
        open_local(str(directory))


@pytest.mark.parametrize("content", [b"", b"x", b"\x00\xff" * 5000])
@pytest.mark.parametrize("piece", [1, 7, 1000, 100_000])
def test_a_multipart_body_comes_in_pieces_of_the_size_asked_for(directory: Path, content: bytes, piece: int) -> None:
    path = directory / "file"
    path.write_bytes(content)
    with path.open("rb") as file:
        body = MultipartFile(file, "file é", len(content))
        pieces = []
        while data := body.read(piece):
            assert len(data) <= piece
            pieces.append(data)
    whole = b"".join(pieces)
    assert len(whole) == len(body)
    boundary = body.content_type.partition("boundary=")[2].encode()
    parts = whole.split(b"--" + boundary)
    assert parts[0] == b""
    assert parts[1] == b'\r\nContent-Disposition: form-data; name="filename"\r\n\r\nfile \xc3\xa9\r\n'
    head, _, sent = parts[2].partition(b"\r\n\r\n")
    assert b'name="file"' in head
    assert sent == content + b"\r\n"
    assert parts[3] == b"--\r\n"


def test_a_body_can_be_read_at_once(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"abc")
    with path.open("rb") as file:
        body = MultipartFile(file, "n", 3)
        assert len(body.read()) == len(body)
        assert body.read() == b""


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(directory: Path) -> None:
    path = directory / "file"
    path.write_bytes(b"abc")
    with path.open("rb") as file:
        body = MultipartFile(file, "n", 3)
        path.write_bytes(b"")
        with pytest.raises(OSError, match="became shorter"):
            body.read()
