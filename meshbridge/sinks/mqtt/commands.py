"""Commands over MQTT: the topics to subscribe to, what a message says, and the packets of replies. No I/O."""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from meshbridge import telemetry
from meshbridge.sinks.commands import CommandDesk, CommandMessage, CommandOptions, CommandReply
from meshbridge.sinks.mqtt.answers import name_of
from meshbridge.sinks.mqtt.publishing import FAILURE, packed_properties, publish, topic_level

__all__ = ["CommandTopics", "Commands", "Subscription"]

_MAX_TOPIC_BYTES = 65_535  # MQTT 5, 1.5.4
_TASK, _RESULT = "task", "result"
_PATTERN = re.compile(r"[*?\\[]")


class Subscription(NamedTuple):
    """A topic filter; ``is_shared``: ``$share/…``, for which no-local is an error (MQTT 5, 3.8.3.1)."""

    filter: str
    is_shared: bool


class CommandTopics:
    """The topics of commands, tasks and results, by the template of the settings."""

    def __init__(self, options: CommandOptions) -> None:
        self._options = options
        head, _, last = options.topic.rpartition("/")
        self._result = f"{head}/{_RESULT}"
        pattern = re.escape(head).replace(r"\{daemon\}", "(?P<daemon>[^/]+)").replace(r"\{app\}", "(?P<app>[^/]+)")
        self._pattern = re.compile(f"{pattern}/(?P<kind>{re.escape(last)}|{_TASK})", re.DOTALL)
        self._kinds = [last] if options.takes_commands else []
        self._kinds += [_TASK] if options.takes_tasks else []
        self._head = head

    def subscriptions(self, daemons: Iterable[str]) -> set[Subscription]:
        """As narrow as the rules allow: a level for each daemon, and for each app where ``when.apps`` names them."""
        when, share = self._options.when, self._options.share
        apps = (
            [topic_level(app) for app in when.apps] if when.apps and not any(map(_PATTERN.search, when.apps)) else ["+"]
        )
        found = set()
        for daemon in daemons:
            if when.daemons and daemon not in when.daemons:
                continue
            for app in apps:
                for kind in self._kinds:
                    plain = f"{self._filled(self._head, topic_level(daemon), app)}/{kind}"
                    found.add(Subscription(f"$share/{share}/{plain}" if share else plain, share is not None))
        return found

    def parsed(self, topic: str) -> tuple[str, str, bool] | None:
        """(daemon, app, whether it is a task) of a topic, as its levels have them; None where it is none of these."""
        match = self._pattern.fullmatch(topic)
        return None if match is None else (match["daemon"], match["app"], match["kind"] == _TASK)

    def result(self, daemon: str, app: str) -> str:
        return self._filled(self._result, daemon, app)

    @staticmethod
    def _filled(template: str, daemon: str, app: str) -> str:
        return template.replace("{daemon}", daemon).replace("{app}", app)

    def usable_reply_topic(self, topic: object) -> str | None:
        """A Response Topic, unless it is no topic, or one that would come back as a command."""
        if not isinstance(topic, str) or not topic or re.search(r"[+#\x00]", topic) or topic.startswith("$"):
            return None
        if len(topic.encode("utf-8", "replace")) > _MAX_TOPIC_BYTES or self.parsed(topic) is not None:
            return None
        return topic


class Commands:
    """What goes on between the connection and the desk. For the sink's thread."""

    def __init__(self, options: CommandOptions, desk: CommandDesk, *, is_v5: bool) -> None:
        self.topics = CommandTopics(options)
        self.desk = desk
        self._is_v5 = is_v5
        self._in_flight: dict[int, CommandReply] = {}  # by packet id

    def take(self, message: Any) -> bool:
        """A message as paho gives it; whether it is one of these."""
        place = self.topics.parsed(message.topic)
        if place is None:
            return False
        daemon, app, is_task = place
        properties = getattr(message, "properties", None)
        expiry = getattr(properties, "MessageExpiryInterval", None)
        self.desk.submit(
            CommandMessage(
                daemon,
                app,
                is_task,
                bytes(message.payload),
                self.topics.usable_reply_topic(getattr(properties, "ResponseTopic", None)),
                getattr(properties, "CorrelationData", None),
                None if expiry is None else time.monotonic() + expiry,
                bool(message.retain),
                str(message.mid) if message.qos else None,
                bool(message.dup),
            )
        )
        return True

    def packets(self, next_id: Callable[[], int], room: int) -> Iterator[bytes]:
        """PUBLISH packets of the replies that are ready, at QoS 1, not retained."""
        replies = self.desk.replies()
        room = max(0, room - len(self._in_flight))
        if replies[room:]:
            self.desk.put_back(replies[room:])
        for reply in replies[:room]:
            packet_id = next_id()
            self._in_flight[packet_id] = reply
            topic = reply.reply_to or self.topics.result(reply.daemon, reply.app)
            yield publish(topic.encode(), reply.payload, 1, packet_id, self._properties(reply))

    def _properties(self, reply: CommandReply) -> bytes:
        if not self._is_v5:
            return b""
        user = {"ok": "true" if reply.is_ok else "false"}
        return packed_properties(reply.content_type, user, correlation=reply.correlation)

    def settle(self, packet_id: int, reason: int) -> bool:
        """Takes an acknowledgement; whether it was of a reply. A reply that the broker refuses is not sent again."""
        reply = self._in_flight.pop(packet_id, None)
        if reply is None:
            return False
        if reason >= FAILURE:
            topic = reply.reply_to or self.topics.result(reply.daemon, reply.app)
            telemetry.command_reply_refused(topic, name_of(reason))
        reply.sent()
        return True

    def lost(self) -> None:
        """The connection has ended: replies without an acknowledgement are sent again."""
        self.desk.put_back(list(self._in_flight.values()))
        self._in_flight.clear()
