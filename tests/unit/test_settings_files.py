"""Files that are settings: which count, which win, and which are left alone."""

import os
from pathlib import Path

import pytest

from meshbridge.config.load import ConfigError, Settings, leftover_secrets, load
from tests.support import write_config


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_config(
        tmp_path / "meshbridge.yaml",
        {"daemons": {"node-a": {"url": "tcp://127.0.0.1:6059", "username": "bridge"}}},
    )


def secret(folder: Path, name: str, text: str = "secret") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def loaded(file: Path, environ: dict[str, str] | None = None) -> Settings:
    return load(file, environ or {}, run_secrets=file.parent / "none")


@pytest.mark.parametrize(
    "name", ["daemons__node_a__password", "daemons__node-a__password", "meshbridge_daemons__node_a__password_file"]
)
def test_a_file_beside_the_configuration_is_a_setting(file: Path, name: str) -> None:
    path = secret(file.parent / "credentials", name)
    assert loaded(file).daemons["node-a"].password_file == path


def test_an_instance_has_a_folder_of_its_own(file: Path) -> None:
    blue = file.rename(file.with_name("blue.yaml"))
    secret(file.parent / "credentials", "daemons__node_a__password")
    own = secret(file.parent / "blue.credentials", "daemons__node_a__password")
    assert loaded(blue).daemons["node-a"].password_file == own


def test_what_systemd_hands_over_wins_over_the_folder_beside(file: Path, tmp_path: Path) -> None:
    secret(file.parent / "credentials", "daemons__node_a__password")
    given = secret(tmp_path / "handed", "meshbridge_daemons__node_a__password")
    environ = {"CREDENTIALS_DIRECTORY": str(given.parent)}
    assert loaded(file, environ).daemons["node-a"].password_file == given


@pytest.mark.parametrize("stray", ["README", "notes.txt", "daemons__node_a__password~", ".daemons__node_a__token.swp"])
@pytest.mark.parametrize("prefix", ["", "meshbridge_"])
def test_a_stray_file_is_left_alone(file: Path, tmp_path: Path, stray: str, prefix: str) -> None:
    secret(file.parent / "credentials", "daemons__node_a__password")
    secret(file.parent / "credentials", stray)
    secret(tmp_path / "handed", f"{prefix}{stray}")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "handed")}
    assert leftover_secrets(loaded(file, environ), file, environ) == []


@pytest.mark.parametrize("name", ["daemons__removed__password", "sinks__gone__secret"])
def test_a_leftover_is_reported_and_not_used(file: Path, name: str) -> None:
    secret(file.parent / "credentials", "daemons__node_a__password")
    path = secret(file.parent / "credentials", name)
    settings = loaded(file)
    assert list(settings.daemons) == ["node-a"]
    assert leftover_secrets(settings, file, {}, run_secrets=file.parent / "none") == [path]


def test_a_file_that_begins_like_a_setting_and_is_none_is_named(file: Path) -> None:
    secret(file.parent / "credentials", "daemons__node_a__password")
    path = secret(file.parent / "credentials", "daemons__node_a__pasword")
    with pytest.raises(ConfigError) as refused:
        loaded(file)
    assert str(path) in str(refused.value)


def test_the_environment_wins_over_a_file(file: Path) -> None:
    secret(file.parent / "credentials", "daemons__node_a__password")
    password = loaded(file, {"MESHBRIDGE_DAEMONS__NODE_A__PASSWORD": "of the environment"}).daemons["node-a"].password
    assert password is not None
    assert password.get_secret_value() == "of the environment"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_configuration_that_must_not_be_read_says_for_whom_it_is_closed(file: Path) -> None:
    file.chmod(0)
    with pytest.raises(ConfigError, match="must not read it"):
        loaded(file)
