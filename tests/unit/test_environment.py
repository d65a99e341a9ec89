"""What the environment says of settings, and what it does not."""

from pathlib import Path
from typing import Any

import pytest

from meshbridge.config.load import ConfigError, load, service_links

DAEMON = {"MESHBRIDGE_DAEMONS__A__URL": "tcp://h", "MESHBRIDGE_DAEMONS__A__USERNAME": "u"}


def loaded(tmp_path: Path, **more: str) -> Any:
    return load(None, {**DAEMON, **more}, run_secrets=tmp_path)


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        MESHBRIDGE_DAEMONS__A__PASSWORD="",
        MESHBRIDGE_DAEMONS__A__PASSWORD_FILE="/p",
        MESHBRIDGE_DAEMONS__A__TOKEN="",
        MESHBRIDGE_DAEMONS__A__OIDC="",
        MESHBRIDGE_EXPORTER__WEB_CONFIG="",
        MESHBRIDGE_JOURNAL__PATH="",
        MESHBRIDGE_SINKS="",
        MESHBRIDGE_NO_SUCH_KEY="",
    )
    daemon = settings.daemons["a"]
    assert (str(daemon.password_file), daemon.password, daemon.token) == ("/p", None, None)
    assert settings.exporter.web_config is None
    assert str(settings.journal.path) == "/var/lib/meshbridge"


def test_the_file_stands_where_a_variable_is_empty(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text("daemons: {a: {url: 'tcp://h', username: u, password: p}}\nexporter: {listen: '127.0.0.1:1'}\n")
    assert load(file, {"MESHBRIDGE_EXPORTER__LISTEN": ""}).exporter.listen == "127.0.0.1:1"


LINKS = {  # as Kubernetes sets them for the Services meshbridge, meshbridge-admin and meshbridge-port
    "MESHBRIDGE_SERVICE_HOST": "10.96.0.7",
    "MESHBRIDGE_SERVICE_PORT": "9665",
    "MESHBRIDGE_SERVICE_PORT_HTTP_METRICS": "9665",
    "MESHBRIDGE_PORT": "tcp://10.96.0.7:9665",
    "MESHBRIDGE_PORT_9665_TCP": "tcp://10.96.0.7:9665",
    "MESHBRIDGE_PORT_9665_TCP_PROTO": "tcp",
    "MESHBRIDGE_PORT_9665_TCP_PORT": "9665",
    "MESHBRIDGE_PORT_9665_TCP_ADDR": "10.96.0.7",
    "MESHBRIDGE_PORT_53_UDP_PORT": "53",
    "MESHBRIDGE_ADMIN_SERVICE_HOST": "10.96.0.8",
    "MESHBRIDGE_ADMIN_SERVICE_PORT": "9666",
    "MESHBRIDGE_ADMIN_PORT": "tcp://10.96.0.8:9666",
    "MESHBRIDGE_PORT_SERVICE_HOST": "10.96.0.9",
}


def test_the_service_links_of_kubernetes_are_left_out(tmp_path: Path) -> None:
    loaded(tmp_path, MESHBRIDGE_DAEMONS__A__PASSWORD="p", **LINKS)
    assert service_links(DAEMON | LINKS) == sorted(LINKS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MESHBRIDGE_PORT", "9665"),
        ("MESHBRIDGE_EXPORTER_PORT", "9665"),
        ("MESHBRIDGE_SERVICE", "x"),
        ("MESHBRIDGE_HOST", "h"),
    ],
)
def test_what_a_person_got_wrong_is_still_said(key: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        loaded(tmp_path, MESHBRIDGE_DAEMONS__A__PASSWORD="p", **{key: value})


def test_json_in_a_variable_has_each_key_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MESHBRIDGE_JOURNAL: the key 'path' stands twice"):
        loaded(tmp_path, MESHBRIDGE_JOURNAL='{"path": "/a", "path": "/b"}')


def test_a_key_twice_in_the_file_is_refused_with_both_lines(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text("journal: {path: /a}\ndaemons: {}\njournal: {max_age: 1d}\n")
    with pytest.raises(ConfigError, match=r"m\.yaml: the key journal stands twice, in lines 1 and 3: keep one"):
        load(file, {})
