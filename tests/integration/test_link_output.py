"""Output that no event brought is fetched: after every cut, the journal's STDOUT of a process is the process's own."""

import base64
import threading
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from appmesh import App, AppMeshClientTCP
from pydantic import SecretStr

from meshbridge.emulator import Emulator, EmulatorOptions
from meshbridge.fields import Tls
from meshbridge.journal import Journal, JournalOptions
from meshbridge.link import DaemonOptions, Link
from meshbridge.model.events import EventType
from tests.support import wait_for


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(EmulatorOptions(https_port=None, wss_port=None)) as daemon:
        yield daemon


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(JournalOptions(path=tmp_path))
    journal.open()
    yield journal
    journal.close()


def address_of(emulator: Emulator) -> tuple[str, int]:
    assert emulator.tcp_address is not None
    return emulator.tcp_address


@pytest.fixture
def link(emulator: Emulator, journal: Journal) -> Iterator[Link]:
    host, port = address_of(emulator)
    options = DaemonOptions(
        url=f"tcp://{host}:{port}",
        username="admin",
        password=SecretStr("admin123"),
        tls=Tls(ca_file=emulator.ca_file),
    )
    link = Link("node-a", options, journal)
    link.start()
    wait_for(lambda: link.status().up, "the link")
    yield link
    assert link.stop(10)


def add_app(emulator: Emulator, name: str, command: str, **fields: object) -> None:
    client = AppMeshClientTCP(address_of(emulator), ssl_verify=str(emulator.ca_file))
    client.login("admin", "admin123")
    client.add_app(App({"name": name, "command": command, "shell": True} | fields))
    client.close()


def printed(journal: Journal, app: str) -> list[tuple[int, str]]:
    """(position, text) of every STDOUT of the app, in the order of the file."""
    found = []
    after = 0
    while envelopes := journal.read(after, 1000):
        after = envelopes[-1].offset
        for event in (envelope.event for envelope in envelopes):
            if event.app == app and event.type is EventType.STDOUT:
                data = orjson.loads(event.data)
                found.append((data["position"], data["output"]))
    return sorted(found)


def joined(pieces: list[tuple[int, str]]) -> str | None:
    """The whole text, None while something is missing; fails where pieces overlap."""
    text = ""
    for position, piece in pieces:
        assert position >= len(text.encode()), f"{piece!r} at {position} overlaps {text[-40:]!r}"
        if position > len(text.encode()):
            return None
        text += piece
    return text


def test_output_of_a_running_process_is_complete_after_cuts(emulator: Emulator, journal: Journal, link: Link) -> None:
    add_app(emulator, "talker", "for i in $(seq 400); do echo line $i of the talker; sleep 0.02; done")
    wait_for(lambda: printed(journal, "talker"), "some output")
    for _ in range(2):
        connects = link.status().connects
        emulator.drop_connections()
        wait_for(lambda connects=connects: link.status().connects > connects, "the next connection")  # type: ignore[misc]
        seen = len(printed(journal, "talker"))
        wait_for(lambda seen=seen: len(printed(journal, "talker")) > seen, "more output")  # type: ignore[misc]
    expected = "".join(f"line {number} of the talker\n" for number in range(1, 401))
    wait_for(lambda: joined(printed(journal, "talker")) == expected, "all of the output")


def test_output_of_a_process_that_ended_unseen_is_fetched(emulator: Emulator, journal: Journal, link: Link) -> None:
    add_app(emulator, "brief", "echo begin; sleep 0.4; echo end")
    wait_for(lambda: printed(journal, "brief"), "the beginning")
    emulator.drop_connections()
    wait_for(lambda: joined(printed(journal, "brief")) == "begin\nend\n", "the end")


def test_output_of_processes_that_came_and_went_unseen_is_fetched(
    emulator: Emulator, journal: Journal, link: Link
) -> None:
    """The first is found by its index, since the daemon knows only the last by its uuid."""
    count = "n=$(cat count 2>/dev/null || echo 0); n=$((n+1)); echo $n > count"
    command = f"{count}; echo run $n begins; sleep 4; echo run $n ends; [ $n -lt 3 ] || sleep 600"
    fields = {"behavior": {"exit": "restart"}, "stdout_cache_num": 5}
    directory = journal.path / "work"
    directory.mkdir()
    add_app(emulator, "restarter", command, working_dir=str(directory), **fields)
    wait_for(
        lambda: orjson.loads(journal.app_states("node-a").get("restarter", "{}")).get("starts"), "a look at the app"
    )
    stop = threading.Event()

    def keep_cutting() -> None:
        while not stop.wait(0.05):
            emulator.drop_connections()

    cutting = threading.Thread(target=keep_cutting)
    cutting.start()
    wait_for(lambda: (directory / "count").read_text().strip() == "3", "the third run")
    stop.set()
    cutting.join()

    def text() -> str:
        return "".join(text for _, text in printed(journal, "restarter"))

    wait_for(lambda: "run 1 ends" in text() and "run 3 ends" in text(), "the output of the first and the last run")
    assert [text().count(f"run {number} ends") for number in (1, 3)] == [1, 1]


def test_bytes_that_are_no_utf8_are_neither_lost_nor_told_twice(
    emulator: Emulator, journal: Journal, link: Link
) -> None:
    command = r"printf 'caf\303'; sleep 0.5; printf '\251 \377\376 '; sleep 0.5; printf 'end \303\244\n'; sleep 600"
    add_app(emulator, "bytes", command)
    wait_for(lambda: printed(journal, "bytes"), "the first piece")
    emulator.drop_connections()

    def text() -> str:
        return "".join(piece for _, piece in printed(journal, "bytes")).replace("\ufffd", "")

    # What was printed meanwhile comes late, by backfill.
    wait_for(lambda: text() in {"caf  end ä\n", "café  end ä\n"}, "all of it, once")
    positions = [position for position, _ in printed(journal, "bytes")]
    assert positions == sorted(set(positions))


def test_a_process_that_was_running_before_the_first_connection_has_no_made_up_history(
    emulator: Emulator, journal: Journal
) -> None:
    add_app(emulator, "old", "echo long ago; while true; do sleep 0.3; echo now; done")
    host, port = address_of(emulator)
    options = DaemonOptions(
        url=f"tcp://{host}:{port}", username="admin", password=SecretStr("admin123"), tls=Tls(ca_file=emulator.ca_file)
    )
    wait_for(lambda: b"now" in _output(emulator, "old"), "two lines")
    link = Link("node-b", options, journal)
    link.start()
    try:
        wait_for(lambda: len(printed(journal, "old")) > 2, "output")
        assert all("long ago" not in text for _, text in printed(journal, "old"))
    finally:
        assert link.stop(10)


def _output(emulator: Emulator, app: str) -> bytes:
    client = AppMeshClientTCP(address_of(emulator), ssl_verify=str(emulator.ca_file))
    client.login("admin", "admin123")
    output = client.get_app_output(app).output
    client.close()
    return output.encode() if isinstance(output, str) else output


def bytes_told(journal: Journal, app: str) -> bytes:
    """The output as a consumer puts it together: by position, bytes where they are given, else the text's."""
    told = bytearray()
    given: set[int] = set()
    for exact in (False, True):
        after = 0
        while envelopes := journal.read(after, 1000):
            after = envelopes[-1].offset
            for event in (envelope.event for envelope in envelopes):
                if event.app != app or event.type is not EventType.STDOUT:
                    continue
                data = orjson.loads(event.data)
                assert "output_base64" not in data or event.reconciled
                if ("output_base64" in data) is not exact:
                    continue
                piece = base64.b64decode(data["output_base64"]) if exact else data["output"].encode()
                if not exact and "\ufffd" in data["output"]:
                    continue
                start, end = data["position"], data["position"] + len(piece)
                told.extend(bytes(max(0, end - len(told))))
                told[start:end] = piece
                given.update(range(start, end))
    return bytes(told) if len(given) == len(told) else b"not whole yet"


@pytest.mark.parametrize("cut", [False, True], ids=["steady", "cut"])
def test_exact_output_tells_the_very_bytes(emulator: Emulator, journal: Journal, tmp_path: Path, cut: bool) -> None:
    """Of text in another encoding, of characters cut in two by the events, and of what is no text at all."""
    host, port = address_of(emulator)
    options = DaemonOptions(
        url=f"tcp://{host}:{port}",
        username="admin",
        password=SecretStr("admin123"),
        tls=Tls(ca_file=emulator.ca_file),
        exact_output=True,
    )
    noise = tmp_path / "noise"
    noise.write_bytes(bytes(range(256)) * 40)
    link = Link("node-a", options, journal)
    link.start()
    try:
        wait_for(lambda: link.status().up, "the link")
        name = f"exact-{'cut' if cut else 'steady'}"
        pieces = (
            rf"printf 'plain\n\303'; {{pause}}; printf '\251 caf\351\n'; {{pause}}; cat {noise}; {{pause}};"
            r" printf '\303\244 end\n'; sleep 600"
        ).format(pause="sleep 0.5")
        add_app(emulator, name, pieces)
        if cut:
            wait_for(lambda: printed(journal, name), "the first piece")
            emulator.drop_connections()
        expected = "plain\né caf".encode() + b"\xe9\n" + noise.read_bytes() + "ä end\n".encode()
        wait_for(lambda: bytes_told(journal, name) == expected, "all of the bytes")
    finally:
        assert link.stop(10)
