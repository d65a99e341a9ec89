"""What strangers say, before it is kept: no secret in any form, nothing that steers a terminal, no flood of lines."""

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshbridge.fields import SecretFiles
from meshbridge.link import DaemonOptions
from meshbridge.outside import MASK, LineLimit, Masks, masked, printable, said

SECRET = 'p@ss w0rd/+"ö&x'


@pytest.mark.parametrize(
    "repeated",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote(SECRET),
        quote_plus(SECRET),
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"bridge:{SECRET}".encode()).decode(),
        base64.urlsafe_b64encode(f"somebody:{SECRET}".encode()).decode(),
        f"grant_type=password&username=bridge&password={quote_plus(SECRET)}&scope=openid",
        quote_plus(SECRET).lower(),
    ],
)
def test_a_secret_is_masked_in_every_form_in_which_it_can_be_repeated(repeated: str) -> None:
    masks = Masks()
    masks.remember(SECRET, "bridge")
    shown = masks.masked(f"no such client: {repeated}!")
    assert MASK in shown
    assert "w0rd" not in shown
    assert "p%40ss" not in shown
    assert base64.b64encode(SECRET.encode()).decode()[4:12] not in shown


@settings(deadline=None)
@given(st.text(min_size=6, max_size=30), st.text(max_size=9), st.text(max_size=20))
def test_what_stands_around_a_secret_does_not_show_it(secret: str, before: str, after: str) -> None:
    masks = Masks()
    masks.remember(secret)
    if len(secret.strip()) >= 4:
        assert secret.strip() not in masks.masked(before + secret + after).replace(MASK, "")


def test_secrets_of_settings_are_remembered_when_they_are_read() -> None:
    DaemonOptions.model_validate({"url": "tcp://h", "username": "u", "password": "of-the-settings"})
    assert masked("echo of-the-settings") == f"echo {MASK}"


def test_a_secret_in_a_file_is_remembered_when_it_is_used(tmp_path: object) -> None:
    class WithSecret(SecretFiles):
        password: str | None = None
        password_file: object = None

    path = tmp_path / "secret"  # type: ignore[operator]
    path.write_text("of-the-file-9\n")
    assert WithSecret.model_construct(password=None, password_file=path).secret("password") == "of-the-file-9"
    assert masked("of-the-file-9") == MASK


@settings(deadline=None)
@given(st.text())
def test_what_is_said_is_printable_and_not_long(text: str) -> None:
    assert said(text).replace("\t", "").isprintable()


def test_what_is_said_at_length_is_cut() -> None:
    assert len(said("x" * 100_000)) < 2000


def test_bidirectional_controls_and_escape_sequences_are_shown_as_what_they_are() -> None:
    assert printable("safe\u202egpj.exe\x1b[2J\n") == "safe\\u202egpj.exe\\x1b[2J\\n"


def test_lines_of_one_kind_are_limited_and_those_left_out_are_counted() -> None:
    now = [0.0]
    limit = LineLimit(lines=3, seconds=10, clock=lambda: now[0])
    assert [limit.take("a") for _ in range(6)] == [0, 0, 0, None, None, None]
    assert limit.take("b") == 0, "another kind has lines of its own"
    now[0] = 10.0
    assert limit.take("a") == 3
    assert limit.take("a") == 0
    for _ in range(5):
        limit.take("a")
    now[0] = 30.0
    assert limit.left_out() == {"a": 4}
    assert limit.left_out() == {}
