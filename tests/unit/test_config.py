from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from meshbridge.config.load import ConfigError, Settings, load, shown
from tests.support import write_config

NOWHERE = Path("/nonexistent")
DAEMON = {"url": "tcp://127.0.0.1", "username": "admin", "password": "secret"}


def load_file(
    tmp_path: Path, settings: dict[str, Any], environ: dict[str, str] | None = None, **extra: Any
) -> Settings:
    extra.setdefault("run_secrets", NOWHERE)
    return load(write_config(tmp_path / "m.yaml", settings), environ or {}, **extra)


def problems(tmp_path: Path, settings: dict[str, Any], environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_file(tmp_path, settings, environ)
    return caught.value.problems


def test_three_lines_of_a_daemon_are_enough(tmp_path: Path) -> None:
    settings = load_file(tmp_path, {"daemons": {"node-a": DAEMON}})
    daemon = settings.daemons["node-a"]
    assert daemon.address == ("127.0.0.1", 6059)
    assert daemon.tls.verify
    assert daemon.takes_everything
    assert settings.exporter.listen == "0.0.0.0:9665"
    assert settings.journal.path == Path("/var/lib/meshbridge")


def test_toml_is_read_as_well(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text('[daemons.node-a]\nurl = "wss://[::1]"\nusername = "u"\npassword = "p"\n')
    assert load(file, {}, run_secrets=NOWHERE).daemons["node-a"].address == ("::1", 6058)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("daemons: {a: {labels: {since: 2026-02-30}}}", "holds a value that YAML cannot make: day is out of range"),
        ("daemons: {}\non: yes\n", "True is no name of a setting"),
        ("daemons: {}\n1: x\n", "1 is no name of a setting"),
    ],
)
def test_what_yaml_makes_of_a_text_is_explained_as_well(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load(file, {}, run_secrets=NOWHERE)


def test_the_environment_alone_is_enough_and_wins_over_the_file(tmp_path: Path) -> None:
    environ = {
        "MESHBRIDGE_DAEMONS__NODE_A__URL": "https://h:1",
        "MESHBRIDGE_DAEMONS__NODE_A__USERNAME": "u",
        "MESHBRIDGE_DAEMONS__NODE_A__PASSWORD": "env",
        "MESHBRIDGE_DAEMONS__NODE_A__EVENTS": "start,EXIT",
        "MESHBRIDGE_SINKS__OPS_HOOK__TYPE": "file",
        "MESHBRIDGE_SINKS__OPS_HOOK__PATH": "-",
        "MESHBRIDGE_SINKS__OPS_HOOK__WHEN": '{"apps": ["web-*"]}',
        "MESHBRIDGE_CONFIG": "ignored",
        "MESHBRIDGE_EXPORTER__COLLECTORS__HOST": "false",
        "OTHER": "x",
    }
    for settings in (
        load(None, environ, run_secrets=NOWHERE),
        load_file(tmp_path, {"daemons": {"node-a": DAEMON}}, environ),
    ):
        daemon = settings.daemons["node-a"]
        assert (daemon.url, daemon.secret("password"), daemon.events) == ("https://h:1", "env", ("START", "EXIT"))
        assert settings.sinks["ops-hook"].when.apps == ("web-*",)
        assert not settings.exporter.collectors.host


def test_a_secret_of_the_environment_replaces_the_files_own_twin(tmp_path: Path) -> None:
    file_daemon = {"url": "tcp://h", "username": "u", "password_file": "/run/secrets/appmesh"}
    environ = {"MESHBRIDGE_DAEMONS__A__PASSWORD": "env"}
    assert load_file(tmp_path, {"daemons": {"a": file_daemon}}, environ).daemons["a"].secret("password") == "env"
    environ = {"MESHBRIDGE_DAEMONS__A__PASSWORD_FILE": str(tmp_path / "p")}
    (tmp_path / "p").write_text("file")
    assert load_file(tmp_path, {"daemons": {"a": DAEMON}}, environ).daemons["a"].secret("password") == "file"


def test_files_of_secrets_are_found_by_the_keys_name_and_read_when_needed(tmp_path: Path) -> None:
    secrets, credentials = tmp_path / "secrets", tmp_path / "credentials"
    secrets.mkdir()
    credentials.mkdir()
    (secrets / "meshbridge_daemons__node_a__password").write_text("first\n")
    (credentials / "meshbridge_sinks__broker__password").write_text("broker\n")
    settings = load_file(
        tmp_path,
        {"daemons": {"node-a": DAEMON}, "sinks": {"broker": {"type": "mqtt", "url": "mqtt://h", "username": "u"}}},
        {"CREDENTIALS_DIRECTORY": str(credentials)},
        run_secrets=secrets,
    )
    assert settings.daemons["node-a"].secret("password") == "first"
    (secrets / "meshbridge_daemons__node_a__password").write_text("second\n")
    assert settings.daemons["node-a"].secret("password") == "second"
    broker = settings.sinks["broker"]
    assert broker.type == "mqtt"
    assert broker.secret("password") == "broker"


def test_everything_wrong_is_told_at_once_with_where_it_came_from(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        {"daemons": {"a": DAEMON | {"token_expire": "1s"}}, "journal": {"max_byte": 1}},
        {"MESHBRIDGE_LOG__LEVEL": "loud"},
    )
    assert found == [
        "daemons.a.token_expire: must be greater than or equal to 60, not 1.0",
        "journal.max_byte: unknown key: did you mean max_bytes? (allowed: max_age, max_bytes, path, sync)",
        "log.level: must be 'debug', 'info', 'warning' or 'error', not 'loud' (from MESHBRIDGE_LOG__LEVEL)",
    ]


@pytest.mark.parametrize(
    ("sink", "problem"),
    [
        ({"type": "mqtt", "url": "tcp://h"}, "sinks.s.url: not the address of a broker"),
        ({"type": "mqtt", "url": "mqtt://u:hunter2@h"}, "sinks.s.url: name and password stand in"),
        ({"type": "mqtt", "url": "mqtt://h", "topic": "a/{nope}"}, "sinks.s.topic: unknown place {nope}"),
        ({"type": "mqtt", "url": "mqtt://h", "topic": "a/{app:d}"}, "sinks.s.topic: place {app} stands alone"),
        ({"type": "nats", "url": "nats://h", "subject": "a.{app!r}"}, "sinks.s.subject: place {app} stands alone"),
        ({"type": "mqtt", "url": "mqtt://h", "topic": "a/#"}, "sinks.s.topic: a topic is not empty and has no"),
        ({"type": "mqtt", "url": "mqtt://h", "format": "binary", "protocol": "3.1.1"}, "sinks.s: format binary needs"),
        ({"type": "file", "path": "-", "format": "binary"}, "sinks.s.format: binary needs a place"),
        ({"type": "mqtt", "url": "mqtt://h", "when": {"events": ["begin"]}}, "sinks.s.when: unknown event 'begin'"),
    ],
)
def test_impossible_values_of_sinks_are_refused(tmp_path: Path, sink: dict[str, Any], problem: str) -> None:
    found = problems(tmp_path, {"daemons": {"a": DAEMON}, "sinks": {"s": sink}})
    assert len(found) == 1
    assert found[0].startswith(problem)
    assert "hunter2" not in found[0]


def test_what_is_shown_can_be_read_and_has_no_secret(tmp_path: Path) -> None:
    broker = {"type": "mqtt", "url": "mqtt://h", "from": "start", "protocol": 5, "qos": "2", "password": "hunter2"}
    sinks = {"b": broker}
    settings = load_file(tmp_path, {"daemons": {"a": DAEMON}, "sinks": sinks})
    text = yaml.safe_dump(shown(settings))
    assert "hunter2" not in text
    again = load_file(tmp_path, yaml.safe_load(text))
    assert again.sinks["b"].start == "start"
    assert again.journal == settings.journal


def test_the_schema_names_every_part() -> None:
    schema = Settings.model_json_schema(by_alias=True)
    assert set(schema["properties"]) == {"daemons", "journal", "sinks", "exporter", "admin", "log"}
    assert issubclass(Settings, BaseSettings)
