"""What an MQTT sink remembers, and what becomes of an older version's files: whatever is in them."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshbridge.sinks.memory import VolatileMemory
from meshbridge.sinks.mqtt.memory import KnownTopics, adopt_files, client_id_of, is_client_id, is_topic
from meshbridge.sinks.mqtt.sink import MqttOptions, MqttSink

CLIENT_ID, TOPIC = "mqtt-client-id", "mqtt-topic"
KEPT_ID = "meshbridge-0123456789ab"


class FullDisk(VolatileMemory):
    """A journal whose disk can't be written."""

    def save(self, kind: str, changes: Mapping[str, str | None], timeout_seconds: float = 0.0) -> bool:
        return False


def topics_of(memory: VolatileMemory) -> list[str]:
    known = KnownTopics(memory)
    known.load()
    return list(known)


@pytest.mark.parametrize(
    "text", ["", "\0" * 32, "a\0b", "a/+", "a/#", "a\nb", "a\x85b", "\ud800", "x" * 65_536, "ä" * 32_768]
)
def test_what_no_broker_takes_is_no_topic(text: str) -> None:
    assert not is_topic(text)


@pytest.mark.parametrize("text", ["", "\0" * 23, "a\0b", "a b", "a\n", "\ud800", "größe", "x" * 129])
def test_what_a_broker_may_refuse_is_no_client_id(text: str) -> None:
    assert not is_client_id(text)


@pytest.mark.parametrize("text", ["a", "meshbridge/node-a/web/state", "$x/y", "Büro/ä", "x" * 65_535])
def test_what_a_broker_takes_is_a_topic(text: str) -> None:
    assert is_topic(text)


def test_a_client_id_is_made_once() -> None:
    memory = VolatileMemory()
    client_id = client_id_of("broker", memory)
    assert is_client_id(client_id)
    assert client_id_of("broker", memory) == client_id
    assert client_id_of("broker", VolatileMemory()) != client_id


@pytest.mark.parametrize("damaged", ["\0" * 23, "a b", "größe", ""])
def test_a_damaged_client_id_is_replaced(damaged: str) -> None:
    memory = VolatileMemory()
    memory.save(CLIENT_ID, {"": damaged})
    client_id = client_id_of("broker", memory)
    assert is_client_id(client_id)
    assert memory.load(CLIENT_ID) == {"": client_id}


def test_damaged_topics_are_removed_and_the_others_stay() -> None:
    memory = VolatileMemory()
    memory.save(TOPIC, {"a/state": "", "\0\0": "", "b/#": "", "b/state": ""})
    assert topics_of(memory) == ["a/state", "b/state"]
    assert memory.load(TOPIC) == {"a/state": "", "b/state": ""}


def test_topics_are_read_as_soon_as_the_journal_can_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = VolatileMemory()
    memory.save(TOPIC, {"a": ""})
    known = KnownTopics(memory)
    with monkeypatch.context() as patch:
        patch.setattr(memory, "load", lambda _kind: None)
        known.load()
        assert not len(known)
    known.load()
    assert list(known) == ["a"]


# --- files of older versions ---------------------------------------------------------------------------------------


def test_files_of_an_older_version_are_moved_into_the_memory(tmp_path: Path) -> None:
    (tmp_path / "mqtt-client-id-broker").write_text(f"{KEPT_ID}\n")
    (tmp_path / "mqtt-topics-broker").write_text("a/state\nb/state\n")
    (tmp_path / "mqtt-topics-other").write_text("c/state\n")
    memory = VolatileMemory()
    adopt_files(tmp_path, "broker", memory)
    assert client_id_of("broker", memory) == KEPT_ID
    assert topics_of(memory) == ["a/state", "b/state"]
    assert [file.name for file in tmp_path.iterdir()] == ["mqtt-topics-other"]


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"a/state\n" + bytes(32), ["a/state"]),
        (bytes(4096), []),
        (b"a/state\n" + bytes(30) + b"\nb/state\n", ["a/state", "b/state"]),
        (b"\xff\xfe\na/state\n", ["a/state"]),
        (b"a/state\nb/#\n", ["a/state"]),
        (b"x" * 70_000 + b"\na/state\n", ["a/state"]),
    ],
)
def test_what_is_unusable_in_a_file_is_set_aside_and_costs_nothing_else(
    tmp_path: Path, content: bytes, kept: list[str]
) -> None:
    (tmp_path / "mqtt-topics-broker").write_bytes(content)
    memory = VolatileMemory()
    adopt_files(tmp_path, "broker", memory)
    assert topics_of(memory) == kept
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith("mqtt-topics-broker.unusable-")
    assert aside.read_bytes() == content


@pytest.mark.parametrize("content", [bytes(24), "meshbridge-größe\n".encode(), b"\xff\n", b"two words\n"])
def test_an_unusable_client_id_gives_a_new_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mqtt-client-id-broker").write_bytes(content)
    memory = VolatileMemory()
    adopt_files(tmp_path, "broker", memory)
    assert is_client_id(client_id_of("broker", memory))


def test_an_empty_file_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "mqtt-client-id-broker").touch()
    (tmp_path / "mqtt-topics-broker").touch()
    adopt_files(tmp_path, "broker", VolatileMemory())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["fifo", "directory", "symlink", "large"])
def test_what_is_no_file_of_ours_is_not_read(tmp_path: Path, kind: str) -> None:
    there, memory = tmp_path / "mqtt-topics-broker", VolatileMemory()
    match kind:
        case "fifo":
            os.mkfifo(there)
        case "directory":
            there.mkdir()
        case "symlink":
            (tmp_path / "secret").write_text("password\n")
            there.symlink_to(tmp_path / "secret")
        case "large":
            with there.open("wb") as file:
                file.truncate(2**40)
    adopt_files(tmp_path, "broker", memory)
    assert topics_of(memory) == []
    assert not os.path.lexists(there)
    assert kind != "symlink" or (tmp_path / "secret").read_text() == "password\n"


def test_an_id_that_is_remembered_is_newer_than_a_file(tmp_path: Path) -> None:
    memory = VolatileMemory()
    client_id = client_id_of("broker", memory)
    (tmp_path / "mqtt-client-id-broker").write_text(f"{KEPT_ID}\n")
    adopt_files(tmp_path, "broker", memory)
    assert client_id_of("broker", memory) == client_id


def test_files_stay_until_the_journal_has_their_content(tmp_path: Path) -> None:
    (tmp_path / "mqtt-topics-broker").write_text("a/state\n")
    adopt_files(tmp_path, "broker", FullDisk())
    assert (tmp_path / "mqtt-topics-broker").exists()


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200), st.binary(max_size=40))
def test_whatever_the_files_hold_the_sink_has_a_valid_id_and_valid_topics(
    tmp_path_factory: pytest.TempPathFactory, topics: bytes, client_id: bytes
) -> None:
    directory = tmp_path_factory.mktemp("files")
    (directory / "mqtt-topics-broker").write_bytes(topics)
    (directory / "mqtt-client-id-broker").write_bytes(client_id)
    sink = MqttSink(MqttOptions.model_validate({"type": "mqtt", "url": "mqtt://h"}), name="broker", directory=directory)
    memory = VolatileMemory()
    sink.use_memory(memory)
    assert is_client_id(sink._client_id)
    assert sink._connection.client_id == sink._client_id
    assert all(is_topic(topic) for topic in topics_of(memory))
    assert not (directory / "mqtt-topics-broker").exists()
