"""Settings of the admin API: what is refused before anything listens."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from meshbridge.admin.options import AdminOptions, Scope, Token
from meshbridge.config.load import ConfigError, load
from meshbridge.web.addresses import is_loopback
from tests.support import write_config

HASH = "ab" * 32
TOKEN = {"name": "ops", "sha256": HASH, "scopes": ["read"]}
TLS = {"cert_file": "/c.pem", "key_file": "/k.pem"}


def options(**settings: Any) -> AdminOptions:
    return AdminOptions.model_validate({"tokens": [TOKEN], **settings})


def test_nothing_is_listened_on_without_tokens() -> None:
    assert not AdminOptions().enabled
    assert options().enabled
    assert options().listen == "127.0.0.1:9666"


@pytest.mark.parametrize("settings", [{"listen": "127.0.0.1:1"}, {"listen": "unix:/a.sock"}, {"insecure": True}])
def test_a_listener_without_tokens_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="tokens is empty"):
        AdminOptions.model_validate(settings)


@pytest.mark.parametrize("listen", ["127.0.0.1:9666", "127.1.2.3:0", "[::1]:1", "localhost:1", "unix:/run/a.sock"])
def test_what_only_this_host_reaches_needs_no_tls(listen: str) -> None:
    assert options(listen=listen).enabled


@pytest.mark.parametrize("listen", ["0.0.0.0:9666", ":9666", "[::]:1", "10.0.0.1:1", "node-a.example:1", "[::2]:1"])
def test_what_others_reach_needs_tls_or_a_word_that_it_has_none(listen: str) -> None:
    with pytest.raises(ValidationError, match="tls is needed"):
        options(listen=listen)
    assert options(listen=listen, tls=TLS).enabled
    assert options(listen=listen, insecure=True).enabled


def test_tls_on_a_unix_socket_is_refused() -> None:
    with pytest.raises(ValidationError, match="no effect"):
        options(listen="unix:/a.sock", tls=TLS)


@pytest.mark.parametrize(("listen", "message"), [("unix:a.sock", "not a place"), ("9666", "not an address")])
def test_what_is_no_address_is_refused(listen: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        options(listen=listen)


def test_names_of_this_host_are_told_from_others() -> None:
    assert is_loopback("localhost")
    assert is_loopback("::1")
    assert not is_loopback("localhost.example")


@pytest.mark.parametrize("twice", [{"name": "other"}, {"sha256": "cd" * 32}])
def test_tokens_that_could_not_be_told_apart_are_refused(twice: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="two tokens have the"):
        AdminOptions.model_validate({"tokens": [TOKEN, {**TOKEN, **twice}]})


def test_the_highest_scope_of_a_token_counts() -> None:
    token = Token.model_validate({**TOKEN, "scopes": ["operate", "read"]})
    assert token.scope is Scope.OPERATE
    assert [token.scope.contains(scope) for scope in Scope] == [True, True, False]


def test_a_token_in_place_of_its_hash_is_refused_and_not_repeated(tmp_path: Path) -> None:
    secret = "mbt_" + "x" * 43
    settings = {
        "daemons": {"node-a": {"url": "tcp://127.0.0.1", "username": "u", "password": "p"}},
        "admin": {"tokens": [{"name": "ops", "sha256": secret, "scopes": ["read"]}]},
    }
    with pytest.raises(ConfigError) as caught:
        load(write_config(tmp_path / "m.yaml", settings), {}, run_secrets=tmp_path)
    assert re.fullmatch(r"admin\.tokens\.0\.sha256: no SHA-256 in hex .*token new.*", str(caught.value))
    assert secret not in str(caught.value)
