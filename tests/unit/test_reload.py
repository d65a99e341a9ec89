"""What differs between two sets of settings, and parts that are exchanged for new ones."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshbridge.config.load import Settings, load
from meshbridge.journal import Journal
from meshbridge.model.status import SinkState
from meshbridge.service.reload import Changes, Difference, changes, put_in_force, still_in_force
from meshbridge.service.supervisor import Parts, end
from meshbridge.sinks.file import FileOptions
from tests.support import make_event, wait_for


def settings_of(tmp_path: Path, **parts: Any) -> Settings:
    parts.setdefault("daemons", {"node-a": daemon()})
    parts.setdefault("journal", {"path": str(tmp_path / "journal")})
    file = tmp_path / "meshbridge.yaml"
    file.write_text(yaml.safe_dump(parts))
    return load(file, {})


def daemon(**more: Any) -> dict[str, Any]:
    return {"url": "https://127.0.0.1:9", "username": "u", "password": "p", **more}


def sink(path: Path, **more: Any) -> dict[str, Any]:
    return {"type": "file", "path": str(path), **more}


# --- what differs --------------------------------------------------------------------------------------------------


def test_equal_settings_differ_in_nothing(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, sinks={"log": sink(tmp_path / "log")})
    assert changes(settings, settings_of(tmp_path, sinks={"log": sink(tmp_path / "log")}), listening=False) == Changes(
        Difference(), Difference()
    )


def test_parts_are_told_by_name(tmp_path: Path) -> None:
    old = settings_of(
        tmp_path,
        daemons={"stays": daemon(), "changes": daemon(), "goes": daemon()},
        sinks={"stays": sink(tmp_path / "a"), "changes": sink(tmp_path / "b"), "goes": sink(tmp_path / "c")},
    )
    new = settings_of(
        tmp_path,
        daemons={"stays": daemon(), "changes": daemon(password="other"), "comes": daemon()},
        sinks={"stays": sink(tmp_path / "a"), "changes": sink(tmp_path / "d"), "comes": sink(tmp_path / "e")},
    )
    found = changes(old, new, listening=False)
    assert found.daemons == found.sinks == Difference(added=("comes",), changed=("changes",), removed=("goes",))


@pytest.mark.parametrize(
    ("part", "value"),
    [("journal", {"path": "/somewhere/else"}), ("exporter", {"listen": "127.0.0.1:1"})],
)
def test_what_belongs_to_the_process_needs_a_restart(tmp_path: Path, part: str, value: dict[str, Any]) -> None:
    assert changes(settings_of(tmp_path), settings_of(tmp_path, **{part: value}), listening=False).need_restart == (
        part,
    )


def test_a_daemons_new_labels_change_the_sinks_that_select_by_them(tmp_path: Path) -> None:
    sinks = {"all": sink(tmp_path / "a"), "some": sink(tmp_path / "b", when={"labels": {"site": "north"}})}
    old = settings_of(tmp_path, daemons={"node-a": daemon(labels={"site": "south"})}, sinks=sinks)
    new = settings_of(tmp_path, daemons={"node-a": daemon(labels={"site": "north"})}, sinks=sinks)
    assert changes(old, new, listening=False).sinks == Difference(changed=("some",))


def test_first_tokens_need_a_restart_until_there_is_a_listener(tmp_path: Path) -> None:
    tokens = [{"name": "ops", "sha256": "0" * 64, "scopes": ["read"]}]
    old, new = settings_of(tmp_path), settings_of(tmp_path, admin={"tokens": tokens})
    found = changes(old, new, listening=False)
    assert found.need_restart == ("admin",)
    assert changes(put_in_force(old, new, found), new, listening=False).need_restart == ("admin",)
    assert changes(new, new, listening=True).need_restart == ()


def test_what_does_not_end_is_tried_again_by_the_next_reload(tmp_path: Path) -> None:
    old = settings_of(tmp_path, sinks={"stuck": sink(tmp_path / "a"), "gone": sink(tmp_path / "b")})
    new = settings_of(tmp_path, daemons={"node-b": daemon()}, sinks={"stuck": sink(tmp_path / "c")})
    again = changes(still_in_force(old, new, ["sinks.stuck", "daemons.node-a"]), new, listening=False)
    assert again.sinks == Difference(changed=("stuck",))
    assert again.daemons == Difference(removed=("node-a",))


# --- exchanging ----------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(settings_of(tmp_path).journal)
    journal.open()
    yield journal
    journal.close()


class Stuck:
    """A sink whose write does not return until it is let go."""

    def __init__(self) -> None:
        self.writes = threading.Event()
        self.go_on = threading.Event()

    def connect(self, timeout_seconds: float) -> None: ...
    def idle(self) -> None: ...
    def close(self, timeout_seconds: float) -> None: ...

    def write(self, _events: object, _timeout_seconds: float) -> None:
        self.writes.set()
        self.go_on.wait()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stuck]:
    """What file sinks named ``stuck`` are built to."""
    sink, build = Stuck(), FileOptions.build
    monkeypatch.setattr(
        FileOptions,
        "build",
        lambda options, name, directory: sink if name == "stuck" else build(options, name, directory),
    )
    yield sink
    sink.go_on.set()


def stop(parts: Parts) -> None:
    parts.request_stop()
    assert all(courier.stop(10) for courier in parts.couriers)
    assert all(link.stop(10) for link in parts.links)


class Slow:
    """A part that has ended once all hundred were looked at; ``waited`` has the seconds that each was given."""

    def __init__(self, name: str, waited: dict[str, float]) -> None:
        self.name = name
        self._waited = waited

    def start(self) -> None: ...
    def request_stop(self) -> None: ...

    def stop(self, timeout_seconds: float) -> bool:
        self._waited[self.name] = self._waited.get(self.name, 0.0) + timeout_seconds
        return len(self._waited) == 100


def test_many_parts_are_waited_for_together() -> None:
    waited: dict[str, float] = {}
    assert end([Slow(str(number), waited) for number in range(100)], 3.0) == []
    assert sum(waited.values()) <= 3.0


def test_a_pause_outlasts_a_change(tmp_path: Path, journal: Journal) -> None:
    old = settings_of(tmp_path, sinks={"log": sink(tmp_path / "a")})
    new = settings_of(tmp_path, sinks={"log": sink(tmp_path / "b")})
    parts = Parts(journal)
    parts.start(old)
    parts.couriers[0].pause()
    wait_for(lambda: parts.couriers[0].status().state is SinkState.PAUSED, "the pause")
    assert parts.exchange(new, changes(old, new, listening=False), ending=threading.Event()) == []
    journal.append([make_event(1)])
    wait_for(lambda: parts.couriers[0].status().state is SinkState.PAUSED, "the pause of the new form")
    assert not (tmp_path / "b").exists()
    parts.couriers[0].resume()
    wait_for(lambda: (tmp_path / "b").exists() and (tmp_path / "b").read_text(), "the event")
    stop(parts)


def test_a_sink_that_does_not_end_is_named_and_the_others_are_exchanged(
    tmp_path: Path, journal: Journal, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshbridge.service.supervisor._END_SECONDS", 3.0)
    old = settings_of(tmp_path, sinks={"stuck": sink(tmp_path / "x"), "log": sink(tmp_path / "a")})
    new = settings_of(tmp_path, sinks={"stuck": sink(tmp_path / "y"), "log": sink(tmp_path / "b")})
    parts = Parts(journal)
    parts.start(old)
    journal.append([make_event(1)])
    wait_for(stuck.writes.is_set, "the write that hangs")
    before = {courier.name: courier for courier in parts.couriers}
    assert parts.exchange(new, changes(old, new, listening=False), ending=threading.Event()) == ["sinks.stuck"]
    after = {courier.name: courier for courier in parts.couriers}
    assert after["stuck"] is before["stuck"]
    assert after["log"] is not before["log"]
    stuck.go_on.set()
    stop(parts)


def test_a_stop_cuts_a_reload_short(tmp_path: Path, journal: Journal, stuck: Stuck) -> None:
    old = settings_of(tmp_path, sinks={"stuck": sink(tmp_path / "x")})
    new = settings_of(tmp_path, sinks={})
    parts, ending = Parts(journal), threading.Event()
    parts.start(old)
    journal.append([make_event(1)])
    wait_for(stuck.writes.is_set, "the write that hangs")
    reload = threading.Thread(
        target=parts.exchange, args=(new, changes(old, new, listening=False)), kwargs={"ending": ending}
    )
    reload.start()
    ending.set()
    reload.join(5)
    assert not reload.is_alive()
    assert [courier.name for courier in parts.couriers] == ["stuck"]
    stuck.go_on.set()
    stop(parts)
