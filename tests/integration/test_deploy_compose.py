"""The Compose example: what it mounts is there, each program takes its configuration, and no container may do more than
it has to.
"""

import os
import re
import shutil
import ssl
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
import yaml
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.command_line import run_command
from tests.support import Process, Subscriber, free_port, program, wait_for

HERE = Path(__file__).parents[2] / "deploy" / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((HERE / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as it is after setup.sh."""
    copy = tmp_path_factory.mktemp("deploy")
    for name in ("compose", "grafana", "prometheus"):
        shutil.copytree(HERE.parent / name, copy / name, ignore=shutil.ignore_patterns("secrets", "__pycache__"))
    setup(copy / "compose")
    return copy / "compose"


def setup(folder: Path) -> None:
    subprocess.run([folder / "setup.sh"], check=True, capture_output=True, timeout=120)


def mounts(service: str) -> Iterator[tuple[Path, str, str]]:
    """What of the folder the service sees: where it lies from the folder, where in the container, and how."""
    for volume in SERVICES[service].get("volumes", ()):
        source, target, *mode = volume.split(":")
        if source.startswith("."):
            yield Path(source), target, "".join(mode)


def secrets(service: str) -> Iterator[tuple[Path, str]]:
    for secret in SERVICES[service].get("secrets", ()):
        source, target = (secret, secret) if isinstance(secret, str) else (secret["source"], secret["target"])
        yield Path(COMPOSE["secrets"][source]["file"]), f"/run/secrets/{target}"


def container(service: str, example: Path, root: Path) -> Path:
    """A folder that looks like the container's root, as far as the example fills it."""
    for source, target in [*((source, target) for source, target, _ in mounts(service)), *secrets(service)]:
        place = root / target.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to((example / source).resolve())
    return root


def rooted(text: str, root: Path, *places: str) -> str:
    """A configuration whose absolute paths lie under ``root``."""
    for place in places:
        text = text.replace(place, f"{root}{place}")
    return text


# --- the file -------------------------------------------------------------------------------------------------------


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("service", SERVICES)
def test_what_is_mounted_is_there_and_cannot_be_written(service: str, example: Path) -> None:
    for source, _, mode in mounts(service):
        assert (example / source).exists(), source
        assert mode == "ro"
    for source, _ in secrets(service):
        assert (example / source).is_file(), source


@pytest.mark.parametrize("kind", ["volumes", "networks", "secrets"])
def test_what_is_declared_is_used_and_what_is_used_is_declared(kind: str) -> None:
    used = {
        (entry if isinstance(entry, str) else entry["source"]).partition(":")[0]
        for service in SERVICES.values()
        for entry in service.get(kind, ())
    }
    assert {name for name in used if not name.startswith(".")} == COMPOSE[kind].keys()


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_may_do_little(service: str) -> None:
    settings = SERVICES[service]
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings.get("read_only") is True or service == "appmesh"
    assert not settings.keys() & {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices", "userns_mode"}
    assert all(port.startswith("127.0.0.1:") for port in settings.get("ports", ()))


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_of_others_is_pinned(service: str) -> None:
    assert re.search(r":v?\d+\.\d+\.\d+$", SERVICES[service]["image"]) or "build" in SERVICES[service]


def test_no_secret_stands_in_the_files() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"password|secret|token|key", name, re.IGNORECASE):
                assert value.startswith("/run/secrets/")
    (daemon,) = yaml.safe_load((HERE / "meshbridge.yaml").read_text(encoding="utf-8"))["daemons"].values()
    assert not {"password", "token", "totp_secret"} & daemon.keys()
    ignored = (HERE.parents[1] / ".gitignore").read_text(encoding="utf-8").split()
    assert all(f"deploy/compose/{Path(secret['file']).parts[0]}/" in ignored for secret in COMPOSE["secrets"].values())


def test_only_who_has_to_talk_to_one_another_can() -> None:
    def together(network: str) -> set[str]:
        return {name for name, service in SERVICES.items() if network in service["networks"]}

    assert together("mesh") == {"appmesh", "meshbridge"}
    assert together("broker") == {"mosquitto", "meshbridge"}
    assert together("metrics") == {"meshbridge", "prometheus", "grafana"}
    assert together("outside") == {name for name, service in SERVICES.items() if "ports" in service}
    assert all(COMPOSE["networks"][name] == {"internal": True} for name in ("mesh", "broker", "metrics"))


# --- secrets/ -------------------------------------------------------------------------------------------------------


@pytest.mark.needs("openssl")
def test_the_certificate_is_for_app_mesh_and_of_the_ca_that_the_bridge_trusts(example: Path) -> None:
    made = example / "secrets"
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=made / "ca.pem")
    server.load_cert_chain(made / "appmesh.pem", made / "appmesh-key.pem")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname="appmesh"),
        server.wrap_bio(up, down, server_side=True),
    ]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
    assert sorted(path.name for path in made.iterdir()) == sorted(
        Path(secret["file"]).name for secret in COMPOSE["secrets"].values()
    ), "no key of the CA is left"


@pytest.mark.needs("openssl")
def test_secrets_are_yours_alone_and_stay_when_it_runs_again(example: Path) -> None:
    made = example / "secrets"
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    before = {path: (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) for path in made.iterdir()}
    assert {mode for _, mode in before.values()} == {0o444}
    setup(example)
    assert before == {path: (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) for path in made.iterdir()}


# --- the configurations ---------------------------------------------------------------------------------------------


@pytest.mark.needs("openssl")
def test_the_bridge_takes_its_configuration(example: Path, tmp_path: Path) -> None:
    root = container("meshbridge", example, tmp_path)
    config = tmp_path / "meshbridge.yaml"
    text = (root / "etc/meshbridge/meshbridge.yaml").read_text(encoding="utf-8")
    config.write_text(rooted(text, root, "/run/secrets"), encoding="utf-8")

    def check(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return run_command("check", "--offline", "--config", str(config), env=environ)

    done = check({"CREDENTIALS_DIRECTORY": str(root / "run/secrets")})
    assert done.returncode == 0, done.stdout + done.stderr
    assert check({}).returncode == 2, "the password comes from the secret alone"


@pytest.mark.needs("openssl", "promtool")
def test_prometheus_takes_its_configuration_and_scrapes_the_bridge(example: Path, tmp_path: Path) -> None:
    config = container("prometheus", example, tmp_path) / "etc/prometheus/prometheus.yml"
    # A link would be followed to the folder where the rules are not.
    text = config.read_text(encoding="utf-8")
    config.unlink()
    config.write_text(text, encoding="utf-8")
    binary = program("promtool")
    assert binary is not None
    done = subprocess.run([binary, "check", "config", config], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS: 2 rule files found" in done.stdout
    (job,) = yaml.safe_load(text)["scrape_configs"]
    listen = yaml.safe_load((example / "meshbridge.yaml").read_text(encoding="utf-8"))["exporter"]["listen"]
    assert job["static_configs"] == [{"targets": [f"meshbridge:{listen.rpartition(':')[2]}"]}]


@pytest.mark.needs("openssl")
def test_grafana_finds_the_dashboards_and_prometheus(example: Path, tmp_path: Path) -> None:
    root = container("grafana", example, tmp_path)
    provisioning = root / "etc/grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/meshbridge.yaml").read_text())["providers"]
    found = sorted(path.name for path in Path(f"{root}{provider['options']['path']}").iterdir())
    assert found == sorted(path.name for path in (HERE.parent / "grafana").glob("*.json"))
    (source,) = yaml.safe_load((provisioning / "datasources/meshbridge.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")


@pytest.mark.needs("mosquitto", "openssl")
def test_the_broker_takes_from_the_bridge_and_gives_to_readers(example: Path, tmp_path: Path) -> None:
    root = container("mosquitto", example, tmp_path)
    (root / "mosquitto/data").mkdir()
    url = yaml.safe_load((example / "meshbridge.yaml").read_text(encoding="utf-8"))["sinks"]["broker"]["url"]
    published = SERVICES["mosquitto"]["ports"][0].rpartition(":")[2]
    ports = {url.rpartition(":")[2]: free_port(), published: free_port()}
    text = (root / "mosquitto/config/mosquitto.conf").read_text(encoding="utf-8")
    text = rooted(text, root, "/mosquitto/")
    for port, free in ports.items():
        text, replaced = re.subn(rf"^listener {port}$", f"listener {free} 127.0.0.1", text, flags=re.MULTILINE)
        assert replaced == 1
    config = tmp_path / "mosquitto.conf"
    config.write_text(text + "\nuser root\n" * (os.geteuid() == 0), encoding="utf-8")
    binary = program("mosquitto")
    assert binary is not None
    inside, outside = ports.values()
    with Process([binary, "-c", str(config)], tmp_path / "mosquitto.log") as broker:
        wait_for(lambda: "running" in broker.output() or broker.popen.poll() is not None, "mosquitto")
        assert broker.popen.poll() is None, broker.output()
        with Subscriber(outside, "meshbridge/#") as reader:
            assert publish(outside, "meshbridge/appmesh/web/start") == "Not authorized"
            assert publish(inside, "elsewhere") == "Not authorized"
            assert publish(inside, "meshbridge/appmesh/web/start") == "Success"
            wait_for(lambda: reader.messages, "the bridge's message")
            assert [message.topic for message in reader.messages] == ["meshbridge/appmesh/web/start"]


def publish(port: int, topic: str) -> str:
    """The broker's word on a message."""
    words: list[str] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_publish = lambda _client, _data, _id, reason, _properties: words.append(reason.getName())
    client.connect("127.0.0.1", port)
    client.publish(topic, "{}", qos=1)
    client.loop_start()
    try:
        return wait_for(lambda: words, "PUBACK")[0]
    finally:
        client.disconnect()
        client.loop_stop()
