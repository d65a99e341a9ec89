"""The MQTT sink's doors on a real mosquitto: TLS, client certificates, websockets, passwords."""

import datetime as dt
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from meshbridge.fields import Tls
from meshbridge.sinks.base import NotConnected
from meshbridge.sinks.mqtt.sink import MqttOptions, MqttSink
from tests.support import Mosquitto, Subscriber, envelopes, free_port, make_event, program, wait_for

pytestmark = pytest.mark.needs("mosquitto")


def sink_for(url: str, **options: object) -> MqttSink:
    return MqttSink(MqttOptions.model_validate({"type": "mqtt", "url": url} | options), "meshbridge-test")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secured(tmp_path: Path, authority: trustme.CA) -> Iterator[tuple[Mosquitto, dict[str, str]]]:
    """A broker with TLS, websockets and a password; gives it with the URLs of its doors."""
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    passwords = tmp_path / "passwords"
    tool = program("mosquitto_passwd")
    assert tool is not None
    subprocess.run([tool, "-b", "-c", str(passwords), "bridge", "hunter2"], check=True, capture_output=True)
    passwords.chmod(0o644)
    tmp_path.chmod(0o755)
    tls, wss = free_port(), free_port()
    files = f"certfile {tmp_path}/server.pem\nkeyfile {tmp_path}/server.pem\n"
    extra = (
        f"allow_anonymous false\npassword_file {passwords}\nuser root\n"
        f"listener {tls} 127.0.0.1\n{files}listener {wss} 127.0.0.1\nprotocol websockets\n{files}"
    )
    with Mosquitto(tmp_path / "secured", extra) as broker:
        yield broker, {"mqtts": f"mqtts://127.0.0.1:{tls}", "wss": f"wss://localhost:{wss}/mqtt", "mqtt": broker.url}


@pytest.mark.parametrize("door", ["mqtt", "mqtts", "wss"])
def test_tls_websockets_and_a_password(secured: tuple[Mosquitto, dict[str, str]], tmp_path: Path, door: str) -> None:
    _, urls = secured
    tls = Tls(ca_file=tmp_path / "ca.pem")
    login = {"username": "bridge", "password": "hunter2"}
    sink = sink_for(urls[door], tls=tls, **login)
    sink.connect(5)
    sink.write(envelopes([make_event(number) for number in range(1, 2001)]), 20)
    sink.idle()
    sink.close(2)
    wrong = sink_for(urls[door], tls=tls, username="bridge", password="wrong")
    with pytest.raises(NotConnected, match=r"refused the connection: Not authorized \(user 'bridge'\)") as caught:
        wrong.connect(5)
    assert "wrong" not in str(caught.value).replace("bridge", "")


@pytest.mark.parametrize("door", ["mqtts", "wss"])
def test_a_certificate_that_is_not_trusted_is_explained(secured: tuple[Mosquitto, dict[str, str]], door: str) -> None:
    _, urls = secured
    with pytest.raises(NotConnected, match=r"certificate of broker .* not trusted: .*set tls\.ca_file"):
        sink_for(urls[door], username="bridge", password="hunter2").connect(5)


@pytest.fixture
def mutual(tmp_path: Path, authority: trustme.CA) -> Iterator[tuple[Mosquitto, str]]:
    """A broker that lets in who has a certificate of its authority, and takes the name from it; with its URL."""
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tmp_path.chmod(0o755)
    port = free_port()
    extra = (
        f"user root\nlistener {port} 127.0.0.1\ncafile {tmp_path}/ca.pem\ncertfile {tmp_path}/server.pem\n"
        f"keyfile {tmp_path}/server.pem\nrequire_certificate true\nuse_identity_as_username true\n"
    )
    with Mosquitto(tmp_path / "mutual", extra) as broker:
        yield broker, f"mqtts://127.0.0.1:{port}"


def test_a_client_certificate_opens_the_door(
    mutual: tuple[Mosquitto, str], authority: trustme.CA, tmp_path: Path
) -> None:
    broker, url = mutual
    own = authority.issue_cert("bridge@example.com", common_name="bridge")
    own.private_key_pem.write_to_path(tmp_path / "own.key")
    own.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
    tls = Tls(ca_file=tmp_path / "ca.pem", client_cert=tmp_path / "own.pem", client_key=tmp_path / "own.key")
    sink = sink_for(url, tls=tls)
    with Subscriber(broker.port) as subscriber:
        sink.connect(5)
        sink.write(envelopes([make_event(1)]), 5)
        wait_for(lambda: subscriber.messages, "the event")
        sink.close(2)


def test_without_a_client_certificate_of_the_brokers_authority_the_door_is_shut(
    mutual: tuple[Mosquitto, str], tmp_path: Path
) -> None:
    _, url = mutual
    foreign = trustme.CA().issue_cert("bridge@example.com")
    foreign.private_key_and_cert_chain_pem.write_to_path(tmp_path / "foreign.pem")
    for client_cert in (None, tmp_path / "foreign.pem"):
        with pytest.raises(NotConnected, match=r"broker 127\.0\.0\.1:"):
            sink_for(url, tls=Tls(ca_file=tmp_path / "ca.pem", client_cert=client_cert)).connect(5)


def test_a_client_certificate_that_is_missing_is_named(mutual: tuple[Mosquitto, str], tmp_path: Path) -> None:
    _, url = mutual
    tls = Tls(ca_file=tmp_path / "ca.pem", client_cert=tmp_path / "missing.pem")
    with pytest.raises(NotConnected, match=r"cannot load the TLS files of broker .*No such file"):
        sink_for(url, tls=tls).connect(5)


def test_a_certificate_that_has_expired_is_said(tmp_path: Path, authority: trustme.CA) -> None:
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    certificate = authority.issue_cert("localhost", "127.0.0.1", not_after=yesterday)
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tmp_path.chmod(0o755)
    port = free_port()
    extra = f"user root\nlistener {port} 127.0.0.1\ncertfile {tmp_path}/server.pem\nkeyfile {tmp_path}/server.pem\n"
    with Mosquitto(tmp_path / "expired", extra):
        sink = sink_for(f"mqtts://127.0.0.1:{port}", tls=Tls(ca_file=tmp_path / "ca.pem"))
        with pytest.raises(NotConnected, match="certificate has expired"):
            sink.connect(5)
