"""The web config file: what is taken, what is refused, and passwords."""

import base64
import os
import ssl
from pathlib import Path

import bcrypt
import pytest
import trustme
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from meshbridge.exporter.webconfig import Users, WebConfig, WebConfigError, WebConfigFile


@pytest.fixture(scope="module")
def hashed() -> str:
    return bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With ``server.pem``, ``server.key`` and ``ca.pem``."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "server.key")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path


def load(folder: Path, content: object) -> tuple[WebConfig, ssl.SSLContext | None]:
    path = folder / "web.yml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return WebConfigFile(path).load()


TLS = {"cert_file": "server.pem", "key_file": "server.key"}


def test_without_a_file_everybody_may_read() -> None:
    file = WebConfigFile(None)
    assert file.load() == (WebConfig(), None)
    assert not file.changed()


@pytest.mark.parametrize("content", ["", "{}", "# nothing\n", "basic_auth_users: {}"])
def test_an_empty_file_is_fine(tmp_path: Path, content: str) -> None:
    assert load(tmp_path, content) == (WebConfig(), None)


def test_tls_settings_are_taken(folder: Path) -> None:
    settings = TLS | {
        "client_auth_type": "RequireAndVerifyClientCert",
        "client_ca_file": "ca.pem",
        "min_version": "TLS13",
        "cipher_suites": ["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"],
        "prefer_server_cipher_suites": False,
    }
    _, context = load(folder, {"tls_server_config": settings})
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.cert_store_stats()["x509_ca"] == 1
    assert [c["name"] for c in context.get_ciphers() if c["protocol"] == "TLSv1.2"] == ["ECDHE-RSA-AES256-GCM-SHA384"]


@pytest.mark.parametrize(
    ("kind", "mode"), [("NoClientCert", ssl.CERT_NONE), ("VerifyClientCertIfGiven", ssl.CERT_OPTIONAL)]
)
def test_tls_is_1_2_or_newer_and_client_certificates_as_asked(folder: Path, kind: str, mode: ssl.VerifyMode) -> None:
    ca = {} if kind == "NoClientCert" else {"client_ca_file": "ca.pem"}
    _, context = load(folder, {"tls_server_config": TLS | ca | {"client_auth_type": kind}})
    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is mode


@pytest.mark.parametrize(
    ("content", "where", "problem"),
    [
        ("a: [", "web.yml", "no YAML"),
        ("\x00", "web.yml", "no YAML"),
        ("[]", "web.yml", "valid dictionary"),
        ({"basic_auth_user": {}}, "basic_auth_user", "not known to this bridge"),
        ({"rate_limit": {"burst": 1}}, "rate_limit", "not offered"),
        ({"tls_server_config": TLS | {"client_allowed_sans": ["a"]}}, "client_allowed_sans", "not offered"),
        ({"tls_server_config": {"cert_file": "server.pem"}}, "key_file", "required"),
        ({"tls_server_config": TLS | {"min_version": "TLS10"}}, "min_version", "TLS12"),
        ({"tls_server_config": TLS | {"min_version": "TLS13", "max_version": "TLS12"}}, "", "above"),
        ({"tls_server_config": TLS | {"cipher_suites": ["TLS_RSA_WITH_RC4_128_SHA"]}}, "cipher_suites", "weak"),
        ({"tls_server_config": TLS | {"client_auth_type": "RequireAnyClientCert"}}, "client_auth_type", "Verify"),
        ({"tls_server_config": TLS | {"client_auth_type": "RequireAndVerifyClientCert"}}, "", "client_ca_file"),
        ({"tls_server_config": TLS | {"client_ca_file": "ca.pem"}}, "", "client_auth_type"),
        ({"tls_server_config": TLS | {"cert_file": "none.pem"}}, "tls_server_config", "No such file"),
        ({"tls_server_config": TLS | {"cert_file": "web.yml"}}, "tls_server_config", "not usable"),
        ({"http_server_config": {"headers": {"a b": "c"}}}, "headers", "not a header"),
        ({"http_server_config": {"headers": {"a": "b\r\nc: d"}}}, "headers", "not a header"),
        ({"basic_auth_users": {"ops": "secret"}}, "basic_auth_users", "no bcrypt hash"),
    ],
)
def test_what_can_not_be_used_is_refused_with_its_place(
    folder: Path, content: object, where: str, problem: str
) -> None:
    with pytest.raises(WebConfigError) as caught:
        load(folder, content)
    assert isinstance(caught.value, OSError)
    assert where in caught.value.where
    assert problem in caught.value.problem
    assert str(folder / "web.yml") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WebConfigError, match="No such file"):
        WebConfigFile(tmp_path / "none.yml").load()


def test_an_encrypted_key_is_refused_and_not_asked_for(folder: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    path = folder / "server.key"
    key = load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x" * 8)))
    with pytest.raises(WebConfigError, match="encrypted"):
        load(folder, {"tls_server_config": TLS})


@pytest.mark.parametrize("name", ["web.yml", "server.pem", "server.key", "ca.pem"])
def test_a_change_of_any_file_is_noticed_once(folder: Path, name: str) -> None:
    settings = TLS | {"client_auth_type": "VerifyClientCertIfGiven", "client_ca_file": "ca.pem"}
    load(folder, {"tls_server_config": settings})
    file = WebConfigFile(folder / "web.yml")
    file.load()
    assert not file.changed()
    os.utime(folder / name, ns=(1, 1))
    assert file.changed()
    file.load()
    assert not file.changed()
    (folder / name).unlink()
    assert file.changed()
    with pytest.raises(WebConfigError):
        file.load()
    assert not file.changed()


def test_headers_are_added_where_they_have_a_value(tmp_path: Path) -> None:
    config, _ = load(
        tmp_path, {"http_server_config": {"http2": True, "headers": {"X-Frame-Options": "deny", "X-A": ""}}}
    )
    assert config.headers == (("x-frame-options", "deny"),)


# --- users ---------------------------------------------------------------------------------------------------------


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_the_right_password_is_let_in_and_remembered(hashed: str) -> None:
    users = Users({"ops": SecretStr(hashed)})
    assert not users.known(basic("ops", "secret"))
    assert users.verify(basic("ops", "secret"))
    assert users.known(basic("ops", "secret"))
    assert not users.known(basic("ops", "other"))


def test_hashes_made_by_htpasswd_are_understood() -> None:
    # as in the example of the exporter-toolkit; the password is the user's name
    stored = "$2y$10$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze"
    assert WebConfig.model_validate({"basic_auth_users": {"alice": stored}}).basic_auth_users
    made = bcrypt.hashpw(b"alice", bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$")
    assert Users({"alice": SecretStr(made)}).verify(basic("alice", "alice"))


def test_a_long_password_counts_with_its_first_72_bytes_as_with_go() -> None:
    """htpasswd leaves out the rest when it makes a hash, and Go's bcrypt when it compares."""
    users = Users({"ops": SecretStr(bcrypt.hashpw(b"p" * 72, bcrypt.gensalt(4)).decode())})
    assert users.verify(basic("ops", "p" * 76))
    assert users.verify(basic("ops", "p" * 72))
    assert not users.verify(basic("ops", "p" * 71))


@pytest.mark.parametrize(
    "authorization",
    ["", "Basic", "Basic !", "Bearer secret", basic("ops", "wrong"), basic("ghost", "secret"), basic("", ""),
     basic("ops", "x" * 100), basic("ops", "secret\0"), "Basic " + base64.b64encode(b"\xff:secret").decode()],
)  # fmt: skip
def test_others_are_not(hashed: str, authorization: str) -> None:
    users = Users({"ops": SecretStr(hashed)})
    assert not users.verify(authorization)
    assert not users.known(authorization)


@given(st.text())
def test_no_header_raises(authorization: str) -> None:
    users = Users({})
    assert not users
    assert not users.known(authorization)
