"""The desk: each command runs at most once, in the order of its app, and each is answered."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshbridge.appmesh import App, AppMeshClient, AppMeshConnectionError, AppMeshTimeoutError
from meshbridge.commands import Desk
from meshbridge.commands.parse import CommandError, parse
from meshbridge.commands.record import Record
from meshbridge.sinks.commands import CommandMessage, CommandOptions, CommandReply, CommandWord
from meshbridge.sinks.memory import VolatileMemory
from tests.support import wait_for

ALL = ("enable", "disable", "restart", "run", "task")


class Daemon:
    """What the desk asks of a client; ``gate`` holds a task back."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.running = {"web": True}

    def enable_app(self, name: str) -> None:
        self.calls.append(("enable", name))
        self.running[name] = True

    def disable_app(self, name: str) -> None:
        self.calls.append(("disable", name))
        self.running[name] = False

    def get_app(self, name: str) -> App:
        return App({"name": name, "status": 1, **({"pid": 1} if self.running.get(name) else {})})

    def list_apps(self) -> list[App]:
        return [App({"name": "late app"})]

    def run_app_sync(self, app: App, **_how: Any) -> tuple[int, str]:
        self.calls.append(("run", app.name))
        return 3, "bye\n"

    def run_task_bytes(self, name: str, data: bytes, timeout: int) -> bytes:
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        self.calls.append(("task", data))
        return b"\xff" + data


class Stage:
    def __init__(self, memory: VolatileMemory | None = None, **options: Any) -> None:
        self.daemon = Daemon()
        self.memory = memory or VolatileMemory()
        self.now = 1000.0
        self.answers: list[CommandReply] = []
        self.desk = Desk(
            "broker",
            CommandOptions(**{"allow": ALL, **options}),
            Record(self.memory, lambda: 1_800_000_000.0 + self.now, lambda: self.now),
            daemons=lambda: ["node-a"],
            known_apps=lambda _daemon: ["web", "a.b", "a_b"],
            client=self._client,
            place_of=lambda name: name.replace(" ", "_").replace(".", "_"),
            clock=lambda: self.now,
        )
        self.desk.start()

    @contextlib.contextmanager
    def _client(self, daemon: str) -> Iterator[AppMeshClient]:
        assert daemon == "node-a"
        yield cast("AppMeshClient", self.daemon)

    def send(self, payload: bytes = b"enable", app: str = "web", *, task: bool = False, **more: Any) -> None:
        self.desk.submit(CommandMessage("node-a", app, task, payload, **more))

    def replies(self, count: int) -> list[CommandReply]:
        def arrived() -> bool:
            self.answers += self.desk.replies()
            return len(self.answers) >= count

        wait_for(arrived, f"{count} replies")
        return self.answers

    def answer(self) -> dict[str, Any]:
        return cast("dict[str, Any]", orjson.loads(self.replies(1)[0].payload))

    def results(self) -> list[str]:
        return [finished.result for finished in reversed(self.desk.recent())]


def test_a_command_is_carried_out_and_answered_with_its_id_and_correlation() -> None:
    stage = Stage()
    stage.send(b'{"command": "RUN", "id": "7"}', reply_to="me/here", correlation=b"\x01")
    reply = stage.replies(1)[0]
    assert (reply.reply_to, reply.correlation, reply.is_ok) == ("me/here", b"\x01", True)
    answer = orjson.loads(reply.payload)
    assert answer == {
        "id": "7", "command": "run", "daemon": "node-a", "app": "web", "ok": True, "error": None, "hint": None,
        "exit_code": 3, "output": "bye\n", "duration_seconds": 0.0,
    }  # fmt: skip


def test_restart_enables_again_only_after_the_process_has_ended() -> None:
    stage = Stage()
    stage.send(b"restart")
    assert stage.answer()["ok"] is True
    assert stage.daemon.calls == [("disable", "web"), ("enable", "web")]


def test_the_reply_of_a_task_is_its_bytes_at_the_response_topic_and_text_elsewhere() -> None:
    stage = Stage()
    stage.send(b"\x00x", task=True, reply_to="r")
    assert stage.replies(1)[0].payload == b"\xff\x00x"
    stage.send(b"y", task=True)
    assert orjson.loads(stage.replies(2)[1].payload)["output"] == "�y"


def test_commands_of_one_app_keep_their_order() -> None:
    stage = Stage(max_concurrent=200)
    sent = [b"%d" % number for number in range(200)]
    for payload in sent:
        stage.send(payload, task=True, correlation=payload)
    assert [reply.correlation for reply in stage.replies(200)] == sent
    assert stage.daemon.calls == [("task", payload) for payload in sent]


def test_above_the_bound_the_answer_is_busy_and_the_same_command_may_come_again() -> None:
    stage = Stage(max_concurrent=1)
    stage.daemon.gate.clear()
    stage.send(b"1", task=True)
    stage.send(b"2", task=True, correlation=b"c")
    busy = orjson.loads(stage.replies(1)[0].payload)
    assert (busy["ok"], "busy" in busy["error"]) == (False, True)
    stage.daemon.gate.set()
    stage.replies(2)
    wait_for(lambda: stage.desk._lanes["node-a"].accepted == 0)
    stage.send(b"2", task=True, correlation=b"c")
    stage.replies(3)
    assert stage.daemon.calls == [("task", b"1"), ("task", b"2")]


@pytest.mark.parametrize("same", [{"correlation": b"c"}, {"delivery": "17", "is_duplicate": True}])
def test_a_repeated_delivery_runs_once(same: dict[str, Any]) -> None:
    stage = Stage()
    stage.send(**same)
    stage.send(**same)
    stage.replies(1)
    assert stage.daemon.calls == [("enable", "web")]
    assert sorted(stage.results()) == ["ok", "repeated"]
    stage.now += 601  # ten minutes later it is another command
    stage.send(**same)
    stage.replies(2)
    assert len(stage.daemon.calls) == 2


def test_senders_with_response_topics_of_their_own_may_use_the_same_names() -> None:
    stage = Stage()
    for sender in ("a", "b", "a"):
        stage.send(correlation=b"1", reply_to=sender)
        stage.send(b'{"command": "enable", "id": "1"}', reply_to=sender)
    stage.replies(4)
    assert sorted(stage.results()) == ["ok"] * 4 + ["repeated"] * 2


def test_a_packet_number_that_is_used_again_is_another_command() -> None:
    stage = Stage()
    for _ in range(2):
        stage.send(delivery="17")
    stage.replies(2)
    stage.send(delivery="17", is_duplicate=True)
    assert stage.results() == ["ok", "ok", "repeated"]


def test_retained_and_expired_commands_are_ignored_and_counted() -> None:
    stage = Stage()
    stage.send(is_retained=True)
    stage.send(expires_at=999.0)
    assert stage.results() == ["retained", "expired"]
    assert (stage.desk.replies(), stage.daemon.calls) == ([], [])


@pytest.mark.parametrize(
    ("how", "result", "error"),
    [
        ({"payload": b"explode"}, "invalid", "unknown command 'explode'"),
        ({"payload": b"\xff"}, "invalid", "not UTF-8"),
        ({"payload": b'{"command": 1}'}, "invalid", "command is missing"),
        ({"payload": b'{"command": "run", "shell": "x"}'}, "invalid", "unknown key 'shell'"),
        ({"payload": b"x" * 2000}, "invalid", "payload of 2000 bytes"),
        ({"payload": b"disable"}, "forbidden", "disable is not allowed"),
        ({"app": "gone"}, "unknown_app", "no app 'gone'"),
        ({"app": "a_b"}, "unknown_app", "several apps: a.b, a_b"),
        ({"app": "late_app"}, "forbidden", "late app are not allowed"),
    ],
)
def test_a_refusal_says_why_and_reaches_no_app(how: dict[str, Any], result: str, error: str) -> None:
    stage = Stage(allow=("enable", "task"), when={"not_apps": ["late*"], "apps": []}, max_payload_bytes=1000)
    stage.send(**how)
    assert error in stage.answer()["error"]
    assert (stage.results(), stage.daemon.calls) == ([result], [])


@pytest.mark.parametrize(
    ("error", "result"),
    [(AppMeshTimeoutError("no answer"), "timeout"), (AppMeshConnectionError("cut"), "unreachable")],
)
def test_a_daemon_that_fails_is_an_error_of_the_command(error: Exception, result: str) -> None:
    stage = Stage()
    stage.daemon.error = error
    stage.send(task=True, reply_to="r", correlation=b"c")
    reply = stage.replies(1)[0]
    assert (reply.is_ok, orjson.loads(reply.payload)["ok"], stage.results()) == (False, False, [result])


def test_after_a_crash_the_outcome_is_unknown_and_nothing_runs_again() -> None:
    first = Stage()
    first.daemon.gate.clear()
    first.send(b"x", task=True, correlation=b"c", reply_to="r")
    wait_for(lambda: '"begun":true' in "".join(first.memory.load("command").values()), "the command to begin")
    second = Stage(first.memory)  # the first process was killed here
    reply = second.replies(1)[0]
    answer = orjson.loads(reply.payload)
    assert (reply.reply_to, reply.correlation, answer["ok"]) == ("r", b"c", False)
    assert "unknown" in answer["error"]
    second.send(b"x", task=True, correlation=b"c", reply_to="r")
    assert (second.daemon.calls, second.results()) == ([], ["unknown", "repeated"])
    reply.sent()
    assert Stage(first.memory).desk.replies() == [], "answered once"
    first.daemon.gate.set()


def test_after_a_crash_a_command_that_had_not_begun_is_answered_so_and_may_come_again() -> None:
    first = Stage()
    first.daemon.gate.clear()
    first.send(b"1", task=True, correlation=b"1")
    first.send(b"2", task=True, correlation=b"2", reply_to="r")
    wait_for(lambda: '"begun":true' in "".join(first.memory.load("command").values()), "the first to begin")
    second = Stage(first.memory)
    errors = {reply.correlation: orjson.loads(reply.payload)["error"] for reply in second.replies(2)}
    assert "unknown" in errors[b"1"]
    assert "it did not run" in errors[b"2"]
    second.send(b"2", task=True, correlation=b"2", reply_to="r")
    assert second.replies(3)[2].is_ok
    first.daemon.gate.set()


def test_a_step_of_the_wall_clock_makes_no_repetition_a_new_command() -> None:
    wall = iter([1e9, 5e8, 2e9] + [3e8] * 20)
    record = Record(VolatileMemory(), lambda: next(wall), lambda: 0.0)
    message = CommandMessage("d", "a", False, b"run", correlation=b"c")
    assert record.accept(message, None, {}) is not None
    assert [record.accept(message, None, {}) for _ in range(3)] == [None] * 3


def test_a_refused_command_may_come_again() -> None:
    stage = Stage()
    for number in (1, 2):
        stage.send(app="gone", correlation=b"c")
        assert "no app" in orjson.loads(stage.replies(number)[number - 1].payload)["error"]
    assert stage.memory.load("command") == {}


def test_answered_commands_without_a_name_leave_nothing_in_the_journal() -> None:
    stage = Stage()
    stage.send(delivery="17")
    stage.replies(1)[0].sent()
    assert stage.memory.load("command") == {}


def test_an_answer_that_the_broker_does_not_take_has_a_short_one_instead() -> None:
    stage = Stage()
    stage.send(b"run", correlation=b"c")
    reply = stage.replies(1)[0]
    assert reply.instead is not None
    short = reply.instead("Packet too large")
    answer = orjson.loads(short.payload)
    assert (short.correlation, short.is_ok, short.instead) == (b"c", False, None)
    assert (answer["exit_code"], "was carried out" in answer["error"], answer["output"]) == (3, True, None)


def test_an_answer_names_the_app_as_the_daemon_does() -> None:
    stage = Stage()
    stage.send(app="late_app")
    assert stage.answer()["app"] == "late app"


def test_few_threads_serve_many_commands() -> None:
    stage = Stage()
    for number in range(50):
        stage.send(delivery=str(number))
        stage.replies(number + 1)
    workers = stage.desk._lanes["node-a"].workers
    assert workers == 1
    stage.desk.stop()
    wait_for(lambda: stage.desk._lanes["node-a"].workers == 0, "the workers to end")


def test_texts_that_a_disk_damaged_cost_nothing() -> None:
    memory = VolatileMemory()
    memory.save("command", {"a": "\x00", "b": "[]", "c": '{"at": 1}', "d": '{"at": 9e9, "done": true}'})
    assert Stage(memory).desk.replies() == []


def test_a_flood_of_refusals_costs_bounded_memory() -> None:
    stage = Stage()
    for _ in range(3000):
        stage.send(b"nonsense")
    assert len(stage.desk.replies()) == 1000
    assert len(stage.desk.recent()) == 200


@given(st.binary(max_size=200))
def test_any_payload_is_a_command_or_a_documented_error(payload: bytes) -> None:
    with contextlib.suppress(CommandError):
        assert parse(CommandMessage("d", "a", False, payload), CommandOptions(allow=tuple(CommandWord))).word in ALL
