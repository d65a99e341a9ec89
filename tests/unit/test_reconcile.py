"""Reconciliation against a model of a daemon, where list answers and events race, and each rule by itself."""

from typing import Any

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from meshbridge.link.reconcile import Apps
from meshbridge.model.events import Event, EventType, decode_push
from tests.support import push_body

NAMES = st.sampled_from(["web", "db"])
ACTIONS = st.sampled_from(["register", "start", "exit", "crash loop", "disable", "enable", "remove"])


class ModelDaemon:
    """What a daemon does with its apps, and the events that it sends of it."""

    def __init__(self, *, october: bool = False) -> None:
        self.october = october  # the dialect of 3.x of October 2026
        self.apps: dict[str, dict[str, Any]] = {}
        self.sequence = 0
        self.clock = 1000
        self.pid = 0

    def _push(self, app: str, event_type: str, data: Any) -> bytes:
        self.sequence += 1
        if self.october and event_type == "STATUS":
            data = {
                "enabled": data["status"] == "enabled",
                "previous_enabled": data["previous_status"] == "enabled",
            }
        body = orjson.loads(push_body(self.sequence, event_type, app, data))
        return orjson.dumps(body | {"timestamp": self.clock})

    def act(self, app: str, action: str) -> list[bytes]:  # noqa: PLR0911 one for each action
        """The events of one action; none where it can't be done."""
        self.clock += 3
        known = self.apps.get(app)
        if action == "register" and known is None:
            self.apps[app] = {"name": app, "status": 1, "health": 1, "starts": 0, "register_time": self.clock}
            return [self._push(app, "HEALTH", {"health": 1, "previous_health": 0}), *self._start(app)]
        if known is None:
            return []
        running = "pid" in known
        if action == "start" and not running and known["status"]:
            return self._start(app)
        if action == "exit" and running:
            return self._exit(app, 3)
        if action == "crash loop" and running:
            return self._exit(app, 1) + self._start(app)
        if action == "disable" and known["status"]:
            known["status"] = 0
            events = [self._push(app, "STATUS", {"status": "disabled", "previous_status": "enabled"})]
            return events + (self._exit(app, 9) if running else [])
        if action == "enable" and not known["status"]:
            known["status"] = 1
            events = [self._push(app, "STATUS", {"status": "enabled", "previous_status": "disabled"})]
            return events + self._start(app)
        if action == "remove":
            events = [self._push(app, "REMOVED", None)]
            events.append(self._push(app, "STATUS", {"status": "disabled", "previous_status": "enabled"}))
            events += self._exit(app, 9) if running else []
            del self.apps[app]
            return events
        return []

    def _start(self, app: str) -> list[bytes]:
        self.pid += 1
        known = self.apps[app]
        known |= {"pid": self.pid, "health": 0, "starts": known["starts"] + 1, "last_start_time": self.clock}
        data = {"pid": self.pid, "process_uuid": f"p{self.pid}"}
        return [self._push(app, "HEALTH", {"health": 0, "previous_health": 1}), self._push(app, "START", data)]

    def _exit(self, app: str, code: int) -> list[bytes]:
        known = self.apps[app]
        pid = known.pop("pid")
        self.clock += 3
        known |= {"health": 1, "return_code": code, "last_exit_time": self.clock}
        data = {"exit_code": code, "last_error": "", "pid": pid}
        return [self._push(app, "HEALTH", {"health": 1, "previous_health": 0}), self._push(app, "EXIT", data)]

    def listed(self) -> list[dict[str, Any]]:
        if not self.october:
            return [dict(fields) for fields in self.apps.values()]
        return [
            {key: value for key, value in fields.items() if key != "status"} | {"enabled": fields["status"] != 0}
            for fields in self.apps.values()
        ]


class Reconciliation(RuleBasedStateMachine):
    """Whatever is lost and however answers and events race, the end is the daemon's own state, told once."""

    @initialize(october=st.booleans())
    def begin(self, october: bool) -> None:
        self.daemon = ModelDaemon(october=october)
        self.apps = Apps("node-a", {})
        self.apps.run = "17"
        self.connected = True
        self.under_way: list[bytes] = []  # sent, not yet received
        self.told: dict[str, dict[str, Any]] = {}  # what a consumer of all events believes of each app
        self.ids: list[str] = []
        self.last = 0
        self.answers: list[tuple[int, list[dict[str, Any]], int]] = []
        self.losses = 0  # actions without an event
        self.unsure: set[str] = set()  # apps that are to be looked at: until then a consumer may believe wrong things

    def _consume(self, event: Event) -> None:
        if event.type is EventType.GAP:
            return
        if event.reconciled and event.type in {EventType.START, EventType.EXIT}:
            self.ids.append(event.id)
        data = orjson.loads(event.data) or {}
        believed = self.told.setdefault(event.app, {})
        match event.type:
            case EventType.START:
                believed |= {"running": True, "removed": False}
            case EventType.EXIT:
                believed["running"] = False
            case EventType.REMOVED:
                self.told[event.app] = {"removed": True}
            case EventType.HEALTH:
                believed["health"] = data["health"]
            case EventType.STATUS:
                assert set(data) in ({"status", "previous_status"}, {"enabled", "previous_enabled"})
                believed["status"] = int(data["enabled"] if "enabled" in data else data["status"] == "enabled")

    def _receive(self, count: int | None) -> None:
        received, self.under_way = self.under_way[:count], self.under_way[count:] if count is not None else []
        for body in received:
            event = decode_push("node-a", "17", body, 1.0, {})
            assert event.sequence is not None
            if event.sequence > self.last + 1:
                self.apps.hole("17", self.last + 1, event.sequence - 1)
            self.last = event.sequence
            if self.apps.observe(event):
                self.unsure.add(event.app)
            self._consume(event)

    @rule(app=NAMES, action=ACTIONS)
    def act(self, app: str, action: str) -> None:
        bodies = self.daemon.act(app, action)
        if self.connected:
            self.under_way += bodies
        else:
            self.losses += 1

    @rule(count=st.integers(min_value=1, max_value=4))
    def receive_some(self, count: int) -> None:
        self._receive(count)

    @rule()
    def lose_the_connection(self) -> None:
        self.connected = False
        self.losses += bool(self.under_way)
        self.under_way.clear()

    @rule()
    def connect_again(self) -> None:
        self.connected = True

    @rule()
    def ask(self) -> None:
        self.answers.append((self.apps.mark(), self.daemon.listed(), self.losses))

    @rule(app=NAMES, actions=st.lists(ACTIONS, min_size=1, max_size=3), received=st.integers(min_value=0, max_value=3))
    def race(self, app: str, actions: list[str], received: int) -> None:
        """Things happen between the daemon's answer and its arrival."""
        self.ask()
        for action in actions:
            self.act(app, action)
        self._receive(received)
        self.compare_with_an_answer()

    @precondition(lambda self: self.answers)
    @rule()
    def compare_with_an_answer(self) -> None:
        mark, listed, losses = self.answers.pop(0)
        if not self.connected:
            self.apps.give_up()  # the fence fails
            return
        self._receive(None)  # the fence
        found = self.apps.compare(listed, mark, float(self.daemon.clock))
        for event in found.events:
            self._consume(event)
        self.unsure = found.look_again
        if (
            losses == self.losses
        ):  # everything since the question was seen, so nothing that was reported may be wrong now
            self._believed_is_so(self.unsure)

    @rule()
    def keep_and_load(self) -> None:
        """What the journal keeps is enough to go on after a restart of the bridge."""
        if self.answers:
            return
        kept = {app: text for (_, app), text in self._everything().items() if text is not None}
        self.apps = Apps("node-a", kept)
        self.apps.run = "17"

    def _everything(self) -> dict[tuple[str, str], str | None]:
        self.apps._changed |= {*self.apps.states, "@daemon"}
        return self.apps.changes()

    @rule()
    def quiet(self) -> None:
        self.connected = True
        while self.answers:
            self.compare_with_an_answer()
        self._receive(None)
        for _ in range(2):
            self.ask()
            self.compare_with_an_answer()
        self._agree()

    def _agree(self) -> None:
        assert set(self.apps.states) == set(self.daemon.apps)
        for app, fields in self.daemon.apps.items():
            state = self.apps.states[app]
            assert state.running is ("pid" in fields)
            assert (state.pid, state.health, state.starts) == (fields.get("pid"), fields["health"], fields["starts"])
            assert state.status == ("enabled" if fields["status"] else "disabled")
        assert not self.unsure
        self._believed_is_so(set())
        assert len(self.ids) == len(set(self.ids))

    def _believed_is_so(self, but: set[str]) -> None:
        """A consumer that has had every event believes nothing wrong; what it was never told it doesn't know."""
        for app, fields in self.daemon.apps.items():
            if app in but:
                continue
            believed = self.told.get(app, {})
            running = "pid" in fields
            assert believed.get("running", running) is running, app
            assert believed.get("health", fields["health"]) == fields["health"], app
            assert believed.get("status", fields["status"]) == fields["status"], app
        for app, believed in self.told.items():
            if app not in self.daemon.apps and app not in but:
                assert not believed.get("running") or believed.get("removed"), app


Reconciliation.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_reconciliation_agrees_with_the_daemon = Reconciliation.TestCase


def listed(**fields: Any) -> dict[str, Any]:
    usual = {
        "name": "web",
        "status": 1,
        "health": 0,
        "pid": 7,
        "starts": 1,
        "last_start_time": 100,
        "register_time": 90,
    }
    return {key: value for key, value in (usual | fields).items() if value is not None}


def known(*lists: list[dict[str, Any]]) -> Apps:
    apps = Apps("node-a", {})
    apps.run = "17"
    for one in lists:
        apps.compare(one, apps.mark(), 1.0)
    return apps


def told(apps: Apps, listing: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    found = apps.compare(listing, apps.mark(), 1000.0)
    assert all(event.reconciled for event in found.events)
    return [(event.id, orjson.loads(event.data)) for event in found.events]


def test_an_app_seen_for_the_first_time_gives_its_state_and_no_history() -> None:
    apps = known()
    assert told(apps, [listed()]) == []
    assert apps.states["web"].running


def test_ids_are_those_of_the_design() -> None:
    apps = known([listed(), listed(name="db"), listed(name="gone")])
    now = [
        listed(pid=None, health=1, return_code=3, last_exit_time=130, last_error="oops"),
        listed(name="db", status=0, pid=9, starts=2, last_start_time=140, last_exit_time=138, return_code=1),
    ]
    assert told(apps, now) == [
        ("node-a/r/web/exit/130", {"exit_code": 3, "last_error": "oops", "pid": 7}),
        ("node-a/r/web/health/17.0.1", {"health": 1, "previous_health": 0}),
        ("node-a/r/db/status/17.0.disabled", {"status": "disabled", "previous_status": "enabled"}),
        ("node-a/r/db/exit/138", {"exit_code": 1, "last_error": "", "pid": 7}),
        ("node-a/r/db/start/140.2", {"pid": 9, "process_uuid": None}),
        ("node-a/r/gone/removed/90", None),
    ]
    assert told(apps, now) == []


def test_a_process_that_began_and_ended_unseen_is_told_whole() -> None:
    apps = known([listed(pid=None, last_exit_time=110, return_code=0)])
    again = listed(pid=None, starts=2, last_start_time=200, last_exit_time=205, return_code=4)
    assert [id_ for id_, _ in told(apps, [again])] == ["node-a/r/web/start/200.2", "node-a/r/web/exit/205"]


def test_an_app_registered_while_nobody_looked_is_told() -> None:
    apps = known([])
    assert [id_ for id_, _ in told(apps, [listed()])] == ["node-a/r/web/start/100.1"]


def test_times_that_differ_by_a_second_are_one_moment() -> None:
    apps = known([listed(pid=None, last_exit_time=110)])
    assert told(apps, [listed(pid=None, last_exit_time=111, last_start_time=101)]) == []


def test_an_app_that_an_event_touched_since_the_mark_is_left_alone() -> None:
    apps = known([listed()])
    mark = apps.mark()
    exited = decode_push("node-a", "17", push_body(5, "EXIT", data={"exit_code": 0, "pid": 7}), 1.0, {})
    apps.observe(exited)
    found = apps.compare([listed()], mark, 2.0)
    assert found.events == []
    assert found.look_again == {"web"}
    assert not apps.states["web"].running


def test_an_end_before_the_process_that_was_seen_to_start_is_history() -> None:
    apps = known([])
    started = decode_push("node-a", "17", push_body(1, "START", data={"pid": 7, "process_uuid": "p"}), 1.0, {})
    assert apps.observe(started)
    at = int(started.timestamp)
    found = apps.compare_one("web", listed(starts=5, last_start_time=at, last_exit_time=at - 60), apps.mark(), 2.0)
    assert found.events == []
    assert apps.states["web"].process_uuid == "p"


def test_an_end_that_left_no_trace_is_told_without_code() -> None:
    """So it is with a process that the daemon killed, or that ended with it: the time listed is an older one."""
    apps = known([listed(last_exit_time=50)])
    end = ("node-a/r/web/exit/100", {"exit_code": None, "last_error": "", "pid": 7})
    assert told(apps, [listed(pid=None, last_exit_time=50)]) == [end]
    assert not apps.states["web"].running


def test_registering_again_is_mended_by_a_look() -> None:
    """The old instance's STATUS and HEALTH come last, though the new one is enabled and healthy."""
    apps = known([listed()])
    bodies = [
        push_body(1, "EXIT", data={"exit_code": 9, "pid": 7}),
        push_body(2, "START", data={"pid": 8, "process_uuid": "p8"}),
        push_body(3, "STATUS", data={"status": "disabled", "previous_status": "enabled"}),
        push_body(4, "HEALTH", data={"health": 1, "previous_health": 0}),
    ]
    wants_a_look = [apps.observe(decode_push("node-a", "17", body, 1.0, {})) for body in bodies]
    assert any(wants_a_look)
    started = apps.states["web"].started_at
    found = apps.compare_one("web", listed(pid=8, last_start_time=started, starts=1), apps.mark(), 2.0)
    assert [(event.type, orjson.loads(event.data)) for event in found.events] == [
        (EventType.STATUS, {"status": "enabled", "previous_status": "disabled"}),
        (EventType.HEALTH, {"health": 0, "previous_health": 1}),
    ]


def test_what_follows_a_removal_does_not_bring_the_app_back() -> None:
    apps = known([listed()])
    for number, (kind, data) in enumerate(
        [
            ("REMOVED", None),
            ("STATUS", {"status": "disabled"}),
            ("STDOUT", {"output": "x", "position": 0}),
            ("HEALTH", {"health": 1, "previous_health": 0}),
            ("EXIT", {"exit_code": 9, "pid": 7}),
        ]
    ):
        looks = apps.observe(decode_push("node-a", "17", push_body(number, kind, data=data), 1.0, {}))
        assert looks == (kind == "HEALTH")  # it may be of an app that was registered again
    assert apps.states == {}
    assert apps.changes()[("node-a", "web")] is None
    assert apps.compare_one("web", None, apps.mark(), 2.0).events == []


def test_a_hole_is_told_after_the_repair_and_survives_a_restart() -> None:
    apps = known([listed()])
    apps.hole("17", 5, 9)
    kept = {app: text for (_, app), text in apps.changes().items() if text is not None}
    again = Apps("node-a", kept)
    again.run = "17"
    found = again.compare([listed(health=1)], again.mark(), 50.0)
    assert [event.id for event in found.events] == ["node-a/r/web/health/17.0.1", "node-a/17/gap/5-9"]
    assert orjson.loads(found.events[1].data)["reconciled"] == 1
    assert again.compare([listed(health=1)], again.mark(), 60.0).events == []


def test_elements_of_the_list_that_are_no_apps_are_passed_over() -> None:
    apps = known([listed()])
    assert told(apps, [listed(), {}, {"name": "x", "status": "?"}]) == []


def _event(apps: Apps, kind: EventType, app: str, sequence: int, data: dict[str, Any]) -> Event:
    body = orjson.dumps({"app_name": app, "data": data, "event_type": kind.name, "timestamp": 100})
    return Event("node-a", apps.run, sequence, kind, app, 100.0, body, received_at=100.0)


def test_removals_of_apps_known_from_events_alone_have_ids_of_their_own() -> None:
    """Two apps of one name that came and went between two lists are two happenings."""
    apps = known([])
    ids = []
    for sequence in (5, 9):
        apps.observe(_event(apps, EventType.START, "web", sequence, {"pid": sequence, "process_uuid": "x"}))
        ids += [id_ for id_, _ in told(apps, [])]
    assert ids == ["node-a/r/web/removed/17.5", "node-a/r/web/removed/17.9"]


def test_corrections_back_and_forth_have_ids_of_their_own() -> None:
    apps = known([listed()])
    ids = []
    for status, health in ((0, 1), (1, 0), (0, 1), (1, 0)):
        ids += [id_ for id_, _ in told(apps, [listed(status=status, health=health)])]
    assert len(set(ids)) == len(ids) == 8
    apps.observe(_event(apps, EventType.STATUS, "web", 30, {"status": "enabled", "previous_status": "disabled"}))
    assert [id_ for id_, _ in told(apps, [listed(status=0)])] == ["node-a/r/web/status/17.30.disabled"]


def test_an_upgrade_to_another_dialect_is_no_event() -> None:
    """A daemon of 2.x becomes one of October 2026 between two looks: the apps are the same, in other words."""
    older = {"name": "web", "status": 1, "owner": "admin", "health": 0, "pid": 7, "starts": 2, "last_start_time": 50}
    off = {"name": "db", "status": 0, "owner": "admin", "health": 1, "starts": 1, "last_start_time": 40}
    apps = Apps("node-a", {})
    apps.run = "17"
    apps.compare([older, off], apps.mark(), 60.0)
    newer = [
        {key: value for key, value in app.items() if key not in {"status", "owner"}}
        | {"enabled": app["status"] == 1, "owner_display_name": "admin"}
        for app in (older, off)
    ]
    assert apps.compare(newer, apps.mark(), 70.0).events == []
    assert (apps.states["web"].status, apps.states["db"].status) == ("enabled", "disabled")
    newer[0]["enabled"] = False
    del newer[0]["pid"]
    status, *_ = apps.compare(newer, apps.mark(), 80.0).events
    assert orjson.loads(status.data) == {"enabled": False, "previous_enabled": True}, "in the daemon's own words"


def test_a_run_of_october_stays_one_once_it_was_known() -> None:
    run = {"name": "web_1", "enabled": False, "pid": 9, "starts": 1, "register_time": 5, "last_start_time": 6}
    apps = Apps("node-a", {})
    apps.run = "17"
    apps.compare([run], apps.mark(), 10.0)
    assert apps.states["web_1"].one_off
    ended = {key: value for key, value in run.items() if key != "pid"} | {"last_exit_time": 8, "return_code": 0}
    apps.compare([ended], apps.mark(), 20.0)
    assert apps.states["web_1"].one_off
    apps.compare([ended | {"register_time": 30}], apps.mark(), 40.0)
    assert not apps.states["web_1"].one_off, "an app of that name was registered"
