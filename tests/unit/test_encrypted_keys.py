"""Private keys with a password: settings give it; without it the error names it, and no terminal is asked."""

import ssl
import subprocess
from pathlib import Path

import pytest
import trustme

from meshbridge.admin.options import ServerTls
from meshbridge.appmesh.exceptions import AppMeshConnectionError
from meshbridge.appmesh.http_session import HttpSession
from meshbridge.appmesh.tcp_messages import RequestMessage
from meshbridge.appmesh.tls_stream import client_context
from meshbridge.exporter.webconfig import WebConfigError, WebConfigFile
from meshbridge.fields import EncryptedKeyError, Tls
from meshbridge.link.options import DaemonOptions
from tests.unit.appmesh.https_server import HttpsServer

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, cert.pem and key.pem, which is encrypted."""
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1", "client")
    issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    issued.private_key_pem.write_to_path(str(folder / "plain.pem"))
    command = ["openssl", "pkey", "-in", str(folder / "plain.pem"), "-aes256", "-out", str(folder / "key.pem")]
    subprocess.run([*command, "-passout", f"pass:{PASSWORD}"], check=True, capture_output=True)
    (folder / "both.pem").write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    (folder / "password").write_text(f"{PASSWORD}\n")
    (folder / "wrong").write_text("battery staple\n")
    return folder


def client_tls(pem: Path, **more: object) -> Tls:
    return Tls.model_validate({"client_cert": pem / "cert.pem", "client_key": pem / "key.pem"} | more)


def test_the_password_opens_the_key(pem: Path) -> None:
    client_tls(pem, client_key_password=PASSWORD).context()
    client_tls(pem, client_key_password_file=pem / "password").context()
    Tls(client_cert=pem / "both.pem", client_key_password_file=pem / "password").context()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "is encrypted: set client_key_password_file"),
        ({"client_key_password": ""}, "is encrypted: set client_key_password_file"),
        ({"client_key_password_file": "wrong"}, "client_key_password does not open the private key"),
        ({"client_key_password": "x" * 2000}, "client_key_password is not usable"),
        ({"client_key_password_file": "none"}, "No such file"),
    ],
)
def test_without_the_right_password_the_error_says_so(given: dict[str, str], why: str, pem: Path) -> None:
    named = {key: pem / value if key.endswith("_file") else value for key, value in given.items()}
    with pytest.raises(OSError, match=why) as caught:
        client_tls(pem, **named).context()
    assert PASSWORD not in str(caught.value)


def test_a_daemon_is_shown_the_certificate_over_every_transport(pem: Path) -> None:
    tls = {"client_cert": pem / "cert.pem", "client_key": pem / "key.pem", "client_key_password": PASSWORD}
    options = DaemonOptions.model_validate({"url": "tcp://h", "username": "u", "password": "p", "tls": tls})
    client_context(options.ssl_verify, options.ssl_client_cert)
    del tls["client_key_password"]
    options = DaemonOptions.model_validate({"url": "tcp://h", "username": "u", "password": "p", "tls": tls})
    with pytest.raises(AppMeshConnectionError, match=r"cannot load TLS files.*is encrypted"):
        client_context(options.ssl_verify, options.ssl_client_cert)


def test_an_https_daemon_gets_the_certificate(pem: Path, tmp_path: Path) -> None:
    with HttpsServer(tmp_path) as server:
        tls = client_tls(pem, client_key_password=PASSWORD)
        session = HttpSession(server.url, str(server.ca_file), tls.load_client_certificate)
        assert session.request(RequestMessage(http_method="GET", request_uri="/"), 10).http_status == 200
        session.close()
        session = HttpSession(server.url, str(server.ca_file), (str(pem / "cert.pem"), str(pem / "key.pem")))
        with pytest.raises(AppMeshConnectionError, match="encrypted, and no password for it is set"):
            session.request(RequestMessage(http_method="GET", request_uri="/"), 10)
        session.close()


def test_the_admin_listener_takes_a_key_with_a_password(pem: Path) -> None:
    files = {"cert_file": pem / "cert.pem", "key_file": pem / "key.pem"}
    ServerTls.model_validate(files | {"key_password_file": pem / "password"}).context()
    with pytest.raises(EncryptedKeyError, match="set key_password_file"):
        ServerTls.model_validate(files).context()


def test_the_exporter_takes_a_key_with_a_password(pem: Path) -> None:
    config = pem / "web.yml"
    config.write_text("tls_server_config: {cert_file: cert.pem, key_file: key.pem, key_password_file: password}\n")
    _, context = WebConfigFile(config).load()
    assert isinstance(context, ssl.SSLContext)
    config.write_text("tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n")
    with pytest.raises(WebConfigError, match="set key_password_file"):
        WebConfigFile(config).load()
