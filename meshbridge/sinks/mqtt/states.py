"""The retained messages of a bridge: the state of every app, which daemons are there, and whether the bridge is.

A state comes from the app-state table, not from passing events, so ``when``, ``replay`` and dead letters don't touch
it. It goes out again when what it says has changed; where only output moved, it has not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

import orjson

from meshbridge.appmesh.dialect import DISABLED
from meshbridge.model.app_state import state_of as app_state
from meshbridge.sinks.mqtt import home_assistant
from meshbridge.sinks.mqtt.commands import CommandTopics
from meshbridge.sinks.mqtt.memory import KnownTopics
from meshbridge.sinks.mqtt.publishing import topic_level
from meshbridge.sinks.mqtt.retained import Retained
from meshbridge.sinks.states import AppStates, StateFigures

__all__ = ["OFFLINE", "ONLINE", "StateMessages", "Topics", "state_of"]

ONLINE, OFFLINE = b"online", b"offline"
_UNKNOWN = StateFigures(None, None)
_FIELDS = (
    "status",
    "health",
    "running",
    "pid",
    "process_uuid",
    "starts",
    "started_at",
    "exited_at",
    "exit_code",
    "registered_at",
    "owner",
    "one_off",
)


@dataclass(frozen=True, slots=True)
class Topics:
    """Where a bridge's retained messages stand."""

    prefix: str
    client_id: str

    @classmethod
    def beside(cls, template: str, client_id: str) -> "Topics":
        """Under the same levels as the events of ``template``: those before its first place, else ``meshbridge``."""
        fixed = next(iter(Formatter().parse(template)))[0]
        prefix = fixed.rpartition("/")[0] if fixed != template else ""
        return cls(prefix.strip("/") or "meshbridge", client_id)

    @property
    def patterns(self) -> list[str]:
        """Filters for all of them, of any bridge."""
        levels = ("bridge/+/availability", "+/availability", "+/+/state", "+/+/figures")
        return [f"{self.prefix}/{one}" for one in levels]

    @property
    def bridge(self) -> str:
        return f"{self.prefix}/bridge/{topic_level(self.client_id)}/availability"

    def daemon(self, daemon: str) -> str:
        return f"{self.prefix}/{topic_level(daemon)}/availability"

    def state(self, daemon: str, app: str) -> str:
        return f"{self.prefix}/{topic_level(daemon)}/{topic_level(app)}/state"

    def figures(self, daemon: str, app: str) -> str:
        return f"{self.prefix}/{topic_level(daemon)}/{topic_level(app)}/figures"


def state_of(daemon: str, app: str, text: str) -> dict[str, Any] | None:
    """What a state topic says, of a state as the journal keeps it; None where that is not to be read."""
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(fields, dict):
        return None
    now = app_state(enabled=fields.get("status") != DISABLED, running=bool(fields.get("running")))
    return {"daemon": daemon, "app": app, "state": now.value} | {key: fields.get(key) for key in _FIELDS}


class StateMessages:
    """What is to be sent, worked out from the states; ``states`` None: nothing, and what is there is cleared.

    One thread, the courier's. On each connection :meth:`begin` comes first; then :meth:`gather`, ``take``, ``sent`` and
    ``settle`` in turns (:class:`~meshbridge.sinks.mqtt.retained.Retained`).
    """

    def __init__(
        self,
        states: AppStates | None,
        topics: Topics,
        known: KnownTopics,
        *,
        with_home_assistant: bool = False,
        commands: CommandTopics | None = None,
    ) -> None:
        self._states = states
        self._topics = topics
        self._with_home_assistant = with_home_assistant
        self._commands = commands
        self._daemons: Mapping[str, bool | None] = {}
        self._announcements: set[str] = set()  # the topics of Home Assistant's devices
        self._figures: Mapping[tuple[str, str], StateFigures] = {}
        self._known = known
        self.retained = Retained(known)

    def begin(self) -> None:
        """A new connection: everything is to be published."""
        self._announcements.clear()
        self._known.load()
        if self._states is not None and self._with_home_assistant:
            self._figures = self._states.figures()
        wanted: dict[str, bytes] = {}
        left_alone: list[str] = []
        if self._states is not None:
            wanted[self._topics.bridge] = ONLINE
            self._daemons = self._states.daemons()
            for daemon, up in self._daemons.items():
                if up is None:
                    left_alone.append(self._topics.daemon(daemon))
                else:
                    wanted[self._topics.daemon(daemon)] = ONLINE if up else OFFLINE
            for (daemon, app), text in self._states.everything().items():
                messages = self._messages(daemon, app, text)
                wanted.update(messages)
                if home_assistant.topic(daemon, app) in messages:  # the last figures stand until there are new ones
                    left_alone.append(self._topics.figures(daemon, app))
        self.retained.connected(wanted, left_alone, home_assistant.discovery_first)

    def gather(self) -> None:
        """Takes in what has changed."""
        states = self._states
        if states is None:
            return
        daemons = states.daemons()
        for (daemon, app), text in states.changes().items():
            if daemon not in daemons:
                continue
            self._gather_app(daemon, app, {} if text is None else self._messages(daemon, app, text))
        if self._with_home_assistant:
            self._gather_figures(states.figures())
        if daemons != self._daemons:
            for daemon in self._daemons.keys() - daemons.keys():  # it has left the configuration
                self._forget(daemon)
            self._daemons = daemons
            for daemon, up in daemons.items():
                if up is not None:
                    self.retained.put(self._topics.daemon(daemon), ONLINE if up else OFFLINE)

    def _gather_figures(self, figures: Mapping[tuple[str, str], StateFigures]) -> None:
        if figures is self._figures:
            return
        self._figures = figures
        for (daemon, app), found in figures.items():
            if home_assistant.topic(daemon, app) in self._announcements:
                self.retained.put(self._topics.figures(daemon, app), orjson.dumps(found._asdict()))

    def _forget(self, daemon: str) -> None:
        """Clears everything about a daemon: what the bridge no longer watches must not look as if it were."""
        prefix, announced = f"{self._topics.daemon(daemon).rpartition('/')[0]}/", home_assistant.prefix(daemon)
        topics = self.retained.topics(lambda topic: topic.startswith((prefix, announced)))
        topics.discard(self._topics.bridge)  # below a daemon that is called bridge
        for topic in sorted(topics, key=home_assistant.discovery_first):
            self.retained.drop(topic)
            self._announcements.discard(topic)

    def _gather_app(self, daemon: str, app: str, messages: Mapping[str, bytes]) -> None:
        figures = self._topics.figures(daemon, app)  # the last ones stand until there are new ones
        for topic in (
            home_assistant.topic(daemon, app),  # first: entities that are gone don't read an empty state
            self._topics.state(daemon, app),
            figures,
        ):
            if topic in messages:
                self.retained.put(topic, messages[topic])
            elif topic != figures or home_assistant.topic(daemon, app) not in messages:
                self.retained.drop(topic)
                self._announcements.discard(topic)

    def hear(self, topic: str, payload: bytes) -> None:
        """A message of Home Assistant's: when it has come (back), every device is announced again."""
        if topic == home_assistant.STATUS_TOPIC and payload == home_assistant.BIRTH:
            self.retained.again(self._announcements)

    def _messages(self, daemon: str, app: str, text: str) -> dict[str, bytes]:
        state = state_of(daemon, app, text)
        if state is None:
            return {}
        state_topic = self._topics.state(daemon, app)
        messages = {state_topic: orjson.dumps(state)}
        # A one-off run is known as one once the daemon has listed it, which is when its starts are known.
        if self._with_home_assistant and state["starts"] is not None and not state["one_off"]:
            topic = home_assistant.topic(daemon, app)
            availability = (self._topics.bridge, self._topics.daemon(daemon))
            figures_topic, figures = self._topics.figures(daemon, app), self._figures.get((daemon, app))
            messages[topic] = home_assistant.announcement(
                daemon,
                app,
                state_topic,
                figures_topic,
                availability,
                commanding=self._commanding(daemon, app, topic),
            )
            if figures is not None or figures_topic not in self._known:  # what stands there is better than nothing
                messages[figures_topic] = orjson.dumps((figures or _UNKNOWN)._asdict())
            self._announcements.add(topic)
        return messages

    def _commanding(self, daemon: str, app: str, topic: str) -> home_assistant.Commanding | None:
        """Which commands the device announced at this topic can send."""
        had = self._known.note_of(topic).split()
        if self._commands is None:
            return home_assistant.Commanding("", (), had) if had else None
        allowed = self._commands.allowed(daemon, app)
        self._known.note(topic, " ".join(dict.fromkeys([*had, *home_assistant.command_entities(allowed)])))
        return home_assistant.Commanding(self._commands.command(daemon, app), allowed, had)
