"""What is secret by its name, and passwords in URLs; what was masked is not taken back."""

from typing import Any

import pytest

from meshbridge.admin.daemons.masking import MASK, masked, refuse_masks
from meshbridge.admin.problems import Problem

SECRET = ["JWTSalt", "password", "Passwd", "PGPASSWORD", "DB_PASS", "DB_PWD", "passphrase", "credentials"]
SECRET += ["key", "mfa_key", "apiKey", "API_KEY", "APIKEY", "api-key", "API_KEYS", "PRIVATE_KEY", "SSHKey", "KEY2"]
SECRET += ["AWS_SECRET_ACCESS_KEY", "client_secret", "refreshToken", "access_token", "process_key"]
OPEN = ["", "0", "name", "command", "owner", "SSLCertificateKeyFile", "public_key", "PublicKey"]
OPEN += ["keyboard", "monkey", "compass", "bypass"]


@pytest.mark.parametrize("name", SECRET)
def test_names_of_secrets(name: str) -> None:
    assert masked({"env": [{name: "hunter2"}]}) == {"env": [{name: MASK}]}


@pytest.mark.parametrize("name", OPEN)
def test_other_names(name: str) -> None:
    assert masked({name: "plain"}) == {name: "plain"}


def test_all_of_an_object_is_masked_but_what_is_empty() -> None:
    secret = {"sec_env": {"A": "x", "B": "", "C": None, "D": [1, True, {"E": 2.5}]}}
    assert masked(secret) == {"sec_env": {"A": MASK, "B": "", "C": None, "D": [MASK, True, {"E": MASK}]}}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgres://anna:hunter2@db:5432/x", f"postgres://anna:{MASK}@db:5432/x"),
        (
            "run --from amqp://a:hunter2@b --to redis://:hunter3@c/0",
            f"run --from amqp://a:{MASK}@b --to redis://:{MASK}@c/0",
        ),
        ("amqp://a:p@ss@b/x", f"amqp://a:{MASK}@b/x"),
        ("https://example.com:8443/a@b", "https://example.com:8443/a@b"),
        ("https://anna@example.com/x:y", "https://anna@example.com/x:y"),
        ("a:b@c", "a:b@c"),
    ],
)
def test_passwords_in_urls(text: str, shown: str) -> None:
    assert masked({"command": text}) == {"command": shown}
    if shown != text:
        with pytest.raises(Problem, match="command is masked"):
            refuse_masks({"command": shown})


@pytest.mark.parametrize("value", [{"a": [{"b": MASK}]}, {"a": [{"b": f"x{MASK}"}]}])
def test_a_mask_that_comes_back_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(Problem) as caught:
        refuse_masks(value)
    assert caught.value.extra["where"] == "a.0.b"
    refuse_masks({"a": [{"b": "plain"}], "c": None})
