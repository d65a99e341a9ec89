"""What strangers say, before it is kept: no secret in any form, nothing that steers a terminal, no flood of lines."""

import base64
import html
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
        quote(quote(SECRET)),
        SECRET.encode().hex().upper(),
        html.escape(SECRET),
        json.dumps(json.dumps(SECRET)),
        "".join(f"\\u{ord(sign):04x}" for sign in SECRET),
        "".join(f"%{byte:02X}" for byte in SECRET.encode()),
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
    assert SECRET.encode().hex()[4:16] not in shown.lower()


def test_every_secret_of_many_daemons_is_masked() -> None:
    masks = Masks()
    secrets = [f"{'token' if number % 2 else 'Password'}-{number}-of-a-daemon" for number in range(5_000)]
    for secret in secrets:
        masks.remember(secret)
    for secret in secrets[::499]:
        assert masks.masked(f"no such token: {secret}.") == f"no such token: {MASK}."
    assert masks.masked("nothing to hide") == "nothing to hide"


def test_the_oldest_secrets_are_forgotten_and_leave_nothing() -> None:
    masks = Masks()
    for number in range(20_000):
        masks.remember(f"{number:05}-abc")
    assert masks.masked("00000-abc 19999-abc") == f"00000-abc {MASK}"


def test_a_token_of_a_megabyte_is_masked_as_a_whole() -> None:
    masks = Masks()
    token = f"eyJhbGciOi.{'QUJD' * 250_000}.c2ln"
    masks.remember(token, "bridge")
    assert masks.masked(f"Bearer {token}!") == f"Bearer {MASK}!"
    encoded = base64.b64encode(f"bridge:{token}".encode()).decode()
    assert masks.masked(f"Basic {encoded}") == f"Basic {MASK}"


def test_a_long_sentence_is_masked_as_a_whole() -> None:
    masks = Masks()
    sentence = "the quick brown fox jumps over the lazy dog " * 5
    masks.remember(sentence)
    assert masks.masked(f"no such password: {sentence}") == f"no such password: {MASK} "
    assert "dog" not in masks.masked(quote_plus(sentence))


def test_a_secret_at_the_end_of_what_is_shown_is_masked() -> None:
    masks_before = said("x" * 990 + "of-the-settings-too")
    DaemonOptions.model_validate({"url": "tcp://h", "username": "u", "password": "of-the-settings-too"})
    assert "of-the" in masks_before
    assert "of-the" not in said("x" * 990 + "of-the-settings-too" + "y" * 2000)


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
