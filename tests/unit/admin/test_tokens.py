"""Tokens, and how many wrong ones a peer may show."""

import base64
import hashlib

import pytest

from meshbridge.admin.options import Token
from meshbridge.admin.tokens import FailureLimit, digest, new_token, owner_of


def token(name: str, secret: str) -> Token:
    return Token.model_validate({"name": name, "sha256": digest(secret), "scopes": ["read"]})


def test_a_token_has_256_bits_and_none_is_like_another() -> None:
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    for one in made:
        prefix, _, rest = one.partition("_")
        assert prefix == "mbt"
        assert len(base64.urlsafe_b64decode(rest + "=")) * 8 == 256


def test_only_the_hash_is_compared() -> None:
    first, second = new_token(), new_token()
    assert digest(first) == hashlib.sha256(first.encode()).hexdigest()
    known = [token("a", first), token("b", second)]
    assert [owner.name for one in (first, second) if (owner := owner_of(one, known))] == ["a", "b"]
    assert owner_of(digest(first), known) is None
    assert owner_of(first[:-1], known) is None
    assert owner_of("", known) is None
    assert owner_of("\udce4\u20ac", known) is None
    assert owner_of(first, []) is None


def test_failures_are_taken_in_a_burst_then_one_in_a_while() -> None:
    limit = FailureLimit(burst=3, seconds_each=10)
    assert [limit.failed("a", 0.0) for _ in range(3)] == [0, 0, 0]
    assert limit.failed("a", 0.0) == 10
    assert limit.failed("a", 4.5) == 6
    assert limit.failed("b", 4.5) == 0
    assert limit.failed("a", 10.0) == 0
    assert limit.failed("a", 10.0) == 10
    assert [limit.failed("a", 1000.0) for _ in range(4)] == [0, 0, 0, 10]


def test_the_memory_of_failures_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailureLimit, "_PEERS", 2)
    limit = FailureLimit(burst=1, seconds_each=10)
    assert [limit.failed(peer, 0.0) for peer in ("a", "b", "c")] == [0, 0, 0]
    assert len(limit._full_at) == 2
    assert limit.failed("c", 0.0) == 10
    assert limit.failed("a", 0.0) == 0
