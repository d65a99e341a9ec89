"""Faults between a link and its daemon, one after the other, while apps come, go, and write bytes that are no text.

After all of them the journal is held against what the emulated daemon did. ``make faults`` does hundreds of rounds,
``make test-slow`` a few; the seed is printed, and taken from SEED.
"""

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshbridge.appmesh import App, AppMeshClientTCP, AppMeshError
from meshbridge.appmesh.client_http import AppMeshClient
from meshbridge.appmesh.grant import Grant
from meshbridge.appmesh.token_keeper import Backoff
from meshbridge.emulator import Emulator, EmulatorOptions, RecordedEvent
from meshbridge.fields import RetryWaits, Tls
from meshbridge.journal import Journal, JournalOptions
from meshbridge.link import DaemonOptions, Link
from meshbridge.link.connections import new_login_exchange
from meshbridge.link.permissions import LEAST_ROLE
from tests.faults.oracle import check_events, events_of, holes_not_told, states_that_differ
from tests.faults.proxy import Proxy
from tests.support import wait_for

pytestmark = pytest.mark.slow

DAEMON = "node-a"
ROUNDS = {"short": 9, "long": 300}
APPS = [f"app-{number}" for number in range(6)]
COMMANDS = (
    "head -c 2000 /dev/urandom",  # no UTF-8
    "printf 'caf\\351 \\303\\251\\n'; exit 3",
    "for i in 1 2 3 4 5 6; do head -c 300 /dev/urandom; sleep 0.1; done",
    "echo up; sleep 600",
    "exit 1",
)


class Node:
    """An emulated daemon that can be restarted, what all of its runs did, and a client that keeps its apps busy."""

    def __init__(self, directory: Path, scheme: str, chance: random.Random) -> None:
        self._chance = chance
        self._scheme = scheme
        ports = {"wss_port": None} if scheme == "tcp" else {}
        self.emulator = Emulator(EmulatorOptions(data_dir=directory, https_port=None, record=True, **ports))  # type: ignore[arg-type]
        self.emulator.start()
        self.history: dict[str, list[RecordedEvent]] = {}
        self._client: AppMeshClientTCP | None = None
        self._set_up_user()

    @property
    def address(self) -> tuple[str, int]:
        address = self.emulator.tcp_address if self._scheme == "tcp" else self.emulator.wss_address
        assert address is not None
        return address

    @property
    def client(self) -> AppMeshClientTCP:
        if self._client is None:
            assert self.emulator.tcp_address is not None
            self._client = AppMeshClientTCP(self.emulator.tcp_address, str(self.emulator.ca_file))
            self._client.login("admin", "admin123")
        return self._client

    def _set_up_user(self) -> None:
        self.client.update_role("bridge", list(LEAST_ROLE))
        self.set_password("first")

    def set_password(self, password: str) -> None:
        """Of the bridge's user; ends its tokens."""
        with contextlib.suppress(AppMeshError):
            self.client.delete_user("bridge")
        self.client.add_user("bridge", {"name": "bridge", "key": password, "roles": ["bridge"]})

    def act(self) -> None:
        """One thing that an operator may do."""
        app = self._chance.choice(APPS)
        with contextlib.suppress(AppMeshError):  # an app that is not there
            match self._chance.randrange(7):
                case 0:
                    self.client.delete_app(app)
                case 1:
                    self.client.disable_app(app)
                case 2:
                    self.client.enable_app(app)
                case _:
                    command = self._chance.choice(COMMANDS)
                    self.client.add_app(App({"name": app, "command": command, "shell": True}))

    def restart(self) -> None:
        self._remember()
        self.emulator.stop()
        self._remember()
        self.close_client()
        self.emulator.start()

    def _remember(self) -> None:
        self.history[str(self.emulator.start_time)] = self.emulator.history

    def all_history(self) -> dict[str, list[RecordedEvent]]:
        self._remember()
        return self.history

    def close_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def close(self) -> None:
        self.close_client()
        self.emulator.stop()


class Scene:
    """A node, a proxy in front of it, and a link to that."""

    def __init__(self, directory: Path, scheme: str, chance: random.Random, journal: Journal) -> None:
        self.chance = chance
        self.journal = journal
        self.node = Node(directory / "node", scheme, chance)
        self.proxy = Proxy(self.node.address)
        self.proxy.__enter__()
        self.password_file = directory / "password"
        self.passwords = 0
        self.write_password("first")
        host, port = self.proxy.address
        self.options = DaemonOptions(
            url=f"{scheme}://{host}:{port}",
            username="bridge",
            password_file=self.password_file,
            tls=Tls(ca_file=self.node.emulator.ca_file),
            reconcile_interval=2,
        )
        self.link = Link(DAEMON, self.options, journal, chance=chance.random)
        self.link.start()

    def write_password(self, password: str) -> None:
        new = self.password_file.with_suffix(".new")
        new.write_text(password)
        new.replace(self.password_file)

    @property
    def connects(self) -> int:
        return self.link.status().connects

    def wait_up(self, connects: int = 1) -> None:
        wait_for(lambda: self.connects >= connects and self.link.status().up, f"up; now {self.link.status()}")

    def wait_works(self) -> None:
        """Until requests are answered, too."""

        def works() -> bool:
            with contextlib.suppress(AppMeshError):
                self.link.requests.list_apps(2)
                return True
            return False

        wait_for(works, "requests")

    def close(self) -> None:
        assert self.link.stop(10)
        self.node.close()
        self.proxy.__exit__()

    # --- faults ------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        self.proxy.cut()

    def ended(self) -> None:
        self.proxy.cut(reset=False)

    def cut_in_a_frame(self) -> None:
        before = self.connects
        self.proxy.cut_after(self.chance.randrange(1, 3000))
        while self.connects == before:
            self.node.act()

    def black_hole(self) -> None:
        before = self.connects
        self.proxy.black_hole()
        self.node.act()
        wait_for(lambda: not self.link.status().up, "the silence to be noticed")
        self.node.act()
        self.proxy.heal()
        self.wait_up(before + 1)

    def half_open(self) -> None:
        self.proxy.half_open()
        self.node.act()

    def slow(self) -> None:
        """No fault to a link, as long as answers come in time."""
        self.proxy.delay(0.05)
        for _ in range(5):
            self.node.act()
        self.proxy.heal()

    def dropped_by_the_daemon(self) -> None:
        self.node.emulator.drop_connections()

    def restarted(self) -> None:
        self.node.restart()
        self.proxy.target = self.node.address
        self.proxy.cut()

    def logged_off(self) -> None:
        """Somebody ends the token: events go on, and the next request logs in again."""
        before = self.connects
        token = self.link._credentials.present
        assert token is not None
        direct = self.options.model_copy(update={"url": f"{self.options.scheme}://127.0.0.1:{self.node.address[1]}"})
        exchange = new_login_exchange(direct, 5)
        with contextlib.suppress(AppMeshError):
            AppMeshClient(exchange=exchange).end_grant(Grant(token, 0))
        exchange.close()
        self.node.act()
        self.wait_works()
        assert self.connects == before, "the subscription outlives the token"

    def password_changed(self) -> None:
        """The bridge finds out before or after it has the new one."""
        before = self.connects
        self.passwords += 1
        new = f"password {self.passwords}"
        self.node.set_password(new)
        if self.chance.random() < 0.5:
            with contextlib.suppress(AppMeshError):
                self.link.requests.list_apps(2)
        self.node.act()
        self.write_password(new)
        self.wait_works()
        assert self.connects == before, "the subscription outlives the token"


FAULTS: tuple[tuple[Callable[[Scene], None], bool], ...] = (  # and whether the connection is lost by it
    (Scene.reset, True),
    (Scene.ended, True),
    (Scene.cut_in_a_frame, True),
    (Scene.black_hole, True),
    (Scene.half_open, True),
    (Scene.dropped_by_the_daemon, True),
    (Scene.restarted, True),
    (Scene.logged_off, False),
    (Scene.password_changed, False),
    (Scene.slow, False),
)


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same timers, in a tenth of their time."""
    monkeypatch.setattr("meshbridge.link.runner._PROBE_AFTER_SECONDS", 0.5)
    monkeypatch.setattr("meshbridge.link.runner._REQUEST_SECONDS", 2.0)
    monkeypatch.setattr("meshbridge.link.runner._CONNECT_SECONDS", 2.0)
    monkeypatch.setattr("meshbridge.link.requests._CONNECT_SECONDS", 2.0)
    monkeypatch.setattr("meshbridge.link.runner._LOST", RetryWaits(initial=0.05, max=0.5))
    monkeypatch.setattr("meshbridge.link.runner._REFUSED", RetryWaits(initial=0.2, max=1.0))
    monkeypatch.setattr("meshbridge.appmesh.token_keeper.REFUSED", Backoff(0.2, 1.0))
    monkeypatch.setattr("meshbridge.appmesh.token_keeper.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("meshbridge.link.runner.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("meshbridge.link.repair._LOOK_AFTER_SECONDS", 0.5)
    monkeypatch.setattr("meshbridge.link.repair._RETRY_SECONDS", 0.5)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(JournalOptions(path=tmp_path / "journal"))
    journal.open()
    yield journal
    journal.close()


@contextlib.contextmanager
def busy(node: Node, chance: random.Random) -> Iterator[Callable[[], contextlib.AbstractContextManager[object]]]:
    """Acts all the while, save inside of what this gives."""
    stop, turn = threading.Event(), threading.Lock()

    def work() -> None:
        while not stop.wait(chance.random() * 0.05):
            with turn:
                node.act()

    worker = threading.Thread(target=work, name="operator", daemon=True)
    worker.start()
    try:
        yield lambda: turn
    finally:
        stop.set()
        worker.join(30)
        assert not worker.is_alive()


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("scheme", ["tcp", "wss"])
def test_whatever_happens_to_the_connection_every_event_is_journaled_or_told_as_missed(
    tmp_path: Path, journal: Journal, scheme: str, request: pytest.FixtureRequest
) -> None:
    rounds = ROUNDS[request.config.getoption("--faults")]
    seed = int(os.environ.get("SEED") or random.randrange(2**32))
    print(f"seed {seed}, {rounds} rounds over {scheme}")  # noqa: T201 pytest shows it where the test fails
    chance = random.Random(seed)
    scene = Scene(tmp_path, scheme, chance, journal)
    done: list[str] = []
    try:
        scene.wait_up()
        order = chance.sample(FAULTS, len(FAULTS))
        for number in range(rounds):
            fault, loses = order[number % len(order)]
            done.append(fault.__name__)
            with busy(scene.node, random.Random(chance.random())) as paused:
                threading.Event().wait(chance.random() * 0.3)  # the moment of the fault is a matter of luck
                with paused():
                    before = scene.connects
                    fault(scene)
                if loses:
                    scene.wait_up(before + 1)
        _settle(scene)
        found = check_events(DAEMON, events_of(journal), scene.node.all_history())
        assert found["live"] > rounds * 3
        print(found, done)  # noqa: T201 as above
    finally:
        scene.close()


def _settle(scene: Scene) -> None:
    """Until every app's last known state is what the daemon says, all it has numbered has come, and holes are reported.

    A hole shows by the next event, so one more is caused.
    """
    scene.node.client.add_app(App({"name": "last", "command": "true"}))
    seen: list[object] = []

    def settled() -> bool:
        listed = [app.to_dict() for app in scene.node.client.list_apps()]
        differing = states_that_differ(scene.journal, DAEMON, listed)
        expected = (str(scene.node.emulator.start_time), scene.node.emulator.sequence)
        holes = holes_not_told(scene.journal, DAEMON)
        seen[:] = [differing, scene.journal.last_sequence(DAEMON), expected, holes, scene.link.status()]
        return not differing and seen[1] == expected and not holes

    try:
        wait_for(settled, seconds=20)
    except AssertionError:
        raise AssertionError(f"not settled: {seen}") from None
    assert scene.journal.flush(10), "the journal tells of what it has yet to write"
