"""Where a health check asks, read from as little as possible."""

import json
from pathlib import Path

import pytest
import yaml

from meshbridge.exporter import ExporterOptions
from meshbridge.service.healthcheck import LISTEN, CannotAskError, exporter_url


def write(directory: Path, exporter: object) -> Path:
    path = directory / "meshbridge.yaml"
    path.write_text(yaml.safe_dump({"exporter": exporter}), encoding="utf-8")
    return path


def test_the_default_is_the_exporters() -> None:
    assert ExporterOptions().listen == LISTEN
    assert exporter_url(None, {}) == "http://127.0.0.1:9665"


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("[::]:1234", "http://[::1]:1234"),
        ("[fd00::1]:1234", "http://[fd00::1]:1234"),
        ("10.1.2.3:1234", "http://10.1.2.3:1234"),
    ],
)
def test_an_address_of_all_is_asked_on_the_loopback(listen: str, url: str, tmp_path: Path) -> None:
    assert exporter_url(write(tmp_path, {"listen": listen}), {}) == url


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, {"listen": "0.0.0.0:1"})
    assert exporter_url(config, {"MESHBRIDGE_EXPORTER": json.dumps({"listen": ":2"})}) == "http://127.0.0.1:2"
    assert exporter_url(config, {"MESHBRIDGE_EXPORTER__LISTEN": ":3"}) == "http://127.0.0.1:3"


def test_toml_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "meshbridge.toml"
    path.write_text('[exporter]\nlisten = ":7"\n', encoding="utf-8")
    assert exporter_url(path, {}) == "http://127.0.0.1:7"


def test_tls_is_where_the_web_config_has_it(tmp_path: Path) -> None:
    web_config = tmp_path / "web.yaml"
    config = write(tmp_path, {"listen": ":7", "web_config": str(web_config)})
    web_config.write_text("basic_auth_users: {}\n", encoding="utf-8")
    assert exporter_url(config, {}) == "http://127.0.0.1:7"
    web_config.write_text("tls_server_config: {cert_file: a, key_file: b}\n", encoding="utf-8")
    assert exporter_url(config, {}) == "https://127.0.0.1:7"


@pytest.mark.parametrize(
    "content", ["exporter: {listen: '127.0.0.1:0'}", "exporter: {listen: here}", "exporter: [", "exporter: 5"]
)
def test_what_names_no_address_is_told(content: str, tmp_path: Path) -> None:
    path = tmp_path / "meshbridge.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CannotAskError):
        exporter_url(path, {})


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CannotAskError, match="no-such"):
        exporter_url(tmp_path / "no-such.yaml", {})
