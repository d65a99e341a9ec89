"""Files of secrets: each that cannot be used is named with what is wrong, and none is waited for."""

import os
import socket
from pathlib import Path

import pytest

from meshbridge.checks.secrets import check_secret_files
from meshbridge.fields import SecretFileError, read_secret_file
from meshbridge.link.options import DaemonOptions
from meshbridge.model.status import Grade
from meshbridge.sinks.webhook import WebhookOptions


def fifo(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_bytes(b"\r\n\r\n"), "it is empty"),
        (lambda path: path.write_bytes(b"  \n"), "it is empty"),
        (lambda path: path.write_bytes(b"\xef\xbb\xbf\r\n"), "it is empty"),
        (lambda path: path.mkdir(), "it is a directory, not a regular file"),
        (fifo, "it is a FIFO, not a regular file"),
        (a_socket, "it is a socket, not a regular file"),
        (lambda path: path.symlink_to("/dev/null"), "it is a device, not a regular file"),
        (lambda path: path.write_bytes(b"hidden\xff"), "it is not UTF-8 text"),
        (lambda path: path.write_bytes(b"x" * (2**20 + 1)), "it is larger than 1MiB"),
        (lambda path: path.symlink_to(path), "Too many levels"),
        (lambda _path: None, "No such file or directory"),
    ],
)
def test_a_file_that_holds_no_secret_is_named_with_the_reason(make: object, why: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    make(path)  # type: ignore[operator]
    with pytest.raises(SecretFileError) as caught:
        read_secret_file(path)
    assert str(caught.value).startswith(f"{path}: {why}")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("content", ["s3cret", "s3cret\n", "s3cret\r\n", "\ufeffs3cret\r\n", "\ufeffs3cret\n\n"])
def test_line_ends_and_a_byte_order_mark_are_not_part_of_the_secret(content: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content.encode())
    assert read_secret_file(path) == "s3cret"


@pytest.mark.parametrize(
    ("content", "mode", "doubt"),
    [
        ("s3cret\n", 0o644, "every user of this host can read it"),
        ("\ufeffs3cret\n", 0o600, "byte order mark"),
        ("s3cret\r\n", 0o600, "CRLF"),
        ("s3cret \n", 0o600, "white space"),
        ("s3cret\nother\n", 0o600, "several lines"),
    ],
)
def test_check_warns_of_a_file_that_looks_wrong(content: str, mode: int, doubt: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content.encode())
    path.chmod(mode)
    options = DaemonOptions(url="tcp://h", username="u", password_file=path)
    (verdict,) = check_secret_files("daemon a", options)
    assert (verdict.grade, verdict.aspect) == (Grade.WARNING, "password_file")
    assert doubt in verdict.text
    assert "s3cret" not in verdict.text


def test_check_looks_at_nested_and_at_several_files(tmp_path: Path) -> None:
    options = WebhookOptions.model_validate(
        {
            "type": "webhook",
            "url": "https://h/",
            "auth": {"bearer_file": str(tmp_path / "bearer")},
            "secret_file": [str(tmp_path / "one"), str(tmp_path / "two")],
            "tls": {"client_key_password_file": str(tmp_path / "key")},
        }
    )
    verdicts = list(check_secret_files("sink a", options))
    assert all(verdict.grade is Grade.FAILED for verdict in verdicts)
    assert {verdict.aspect for verdict in verdicts} == {
        "auth.bearer_file",
        "secret_file",
        "tls.client_key_password_file",
    }
    assert len(verdicts) == 4


def test_a_file_in_order_is_not_mentioned(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("s3cret\n")
    path.chmod(0o600)
    assert not list(check_secret_files("daemon a", DaemonOptions(url="tcp://h", username="u", password_file=path)))
