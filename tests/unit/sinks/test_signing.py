"""Signatures, against the public package that receivers use."""

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from meshbridge.sinks.signing import signature_headers, signing_key


@given(st.binary(min_size=24, max_size=64), st.text("abc-/019+", min_size=1), st.binary())
def test_a_signature_is_what_the_public_package_makes(key: bytes, message_id: str, body: bytes) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    headers = signature_headers([signing_key(secret)], message_id, 1_700_000_000, body)
    moment = datetime.fromtimestamp(1_700_000_000, UTC)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return
    assert headers["webhook-signature"] == Webhook(secret).sign(message_id, moment, text)


def test_each_secret_gives_one_signature_in_order() -> None:
    keys = [b"a" * 24, b"b" * 32]
    both = signature_headers(keys, "id", 1, b"x")["webhook-signature"].split(" ")
    assert both == [signature_headers([key], "id", 1, b"x")["webhook-signature"] for key in keys]


def test_without_a_secret_there_is_an_id_and_no_signature() -> None:
    assert signature_headers([], "id", 1, b"x") == {"webhook-id": "id", "webhook-timestamp": "1"}


@pytest.mark.parametrize("secret", ["whsec_c2hvcnQ=", "whsec_not base64!", "", "whsec_" + "A" * 100])
def test_what_is_no_secret_is_said_without_showing_it(secret: str) -> None:
    with pytest.raises(ValueError, match="secret") as caught:
        signing_key(secret)
    assert not secret or secret not in str(caught.value)


def test_the_prefix_is_optional() -> None:
    assert signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") == signing_key("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
