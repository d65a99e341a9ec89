"""Commands over MQTT: the topics to subscribe to, what a message says, and the packets of replies. No I/O."""

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from meshbridge import telemetry
from meshbridge.sinks.commands import CommandDesk, CommandMessage, CommandOptions, CommandReply, CommandWord
from meshbridge.sinks.mqtt.answers import name_of
from meshbridge.sinks.mqtt.incoming import IncomingMessage
from meshbridge.sinks.mqtt.memory import is_topic
from meshbridge.sinks.mqtt.publishing import FAILURE, packed_properties, publish, topic_level

__all__ = ["CommandTopics", "Commands", "Subscription"]

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
        self._command = options.topic

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

    def command(self, daemon: str, app: str) -> str:
        """The command topic of an app."""
        return self._filled(self._command, topic_level(daemon), topic_level(app))

    def allowed(self, daemon: str, app: str) -> tuple[CommandWord, ...]:
        """The commands that an app takes."""
        return self._options.allow if self._options.when.refusal(daemon, app) is None else ()

    @staticmethod
    def _filled(template: str, daemon: str, app: str) -> str:
        return template.replace("{daemon}", daemon).replace("{app}", app)

    def usable_reply_topic(self, topic: str | None) -> str | None:
        """A Response Topic, unless it is no topic, or one that would come back as a command."""
        if topic is None or not is_topic(topic) or topic.startswith("$") or self.parsed(topic) is not None:
            return None
        return topic


class Commands:
    """What goes on between the connection and the desk. For the sink's thread."""

    def __init__(self, options: CommandOptions, desk: CommandDesk, *, is_v5: bool) -> None:
        self.topics = CommandTopics(options)
        self.desk = desk
        self._is_v5 = is_v5
        self._in_flight: dict[int, tuple[str, CommandReply]] = {}  # packet id -> its name among suspects, and the reply
        self._again: deque[CommandReply] = deque()  # not acknowledged by a connection that ended, or sent instead

    def take(self, message: IncomingMessage) -> bool:
        """A message that the broker sent; whether it is one of these."""
        place = self.topics.parsed(message.topic)
        if place is None:
            return False
        daemon, app, is_task = place
        expiry = message.expiry_seconds
        self.desk.submit(
            CommandMessage(
                daemon,
                app,
                is_task,
                message.payload,
                self.topics.usable_reply_topic(message.reply_to),
                message.correlation,
                None if expiry is None else time.monotonic() + expiry,
                message.is_retained,
                None if message.packet_id is None else str(message.packet_id),
                message.is_duplicate,
                message.fault,
            )
        )
        return True

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def keys_in_flight(self) -> list[str]:
        """A name for each reply without an acknowledgement, the same over connections."""
        return [key for key, _ in self._in_flight.values()]

    def packets(self, next_id: Callable[[], int], room: int, largest_packet: int) -> Iterator[bytes]:
        """PUBLISH packets of the replies that are ready, at QoS 1, not retained."""
        replies = [self._again.popleft() for _ in range(min(room, len(self._again)))]
        if room > len(replies):
            replies += self.desk.replies(room - len(replies))
        for reply in replies:
            packet_id = next_id()
            packet = publish(self._topic(reply).encode(), reply.payload, 1, packet_id, self._properties(reply))
            if len(packet) > largest_packet:
                self._refused(reply, f"{len(packet)} bytes; the broker takes {largest_packet}")
                continue
            self._in_flight[packet_id] = f"reply {id(reply)}", reply
            yield packet

    def _topic(self, reply: CommandReply) -> str:
        return reply.reply_to or self.topics.result(topic_level(reply.daemon), topic_level(reply.app))

    def _properties(self, reply: CommandReply) -> bytes:
        if not self._is_v5:
            return b""
        user = {"ok": "true" if reply.is_ok else "false"}
        return packed_properties(reply.content_type, user, correlation=reply.correlation)

    def settle(self, packet_id: int, reason: int) -> str | None:
        """Takes an acknowledgement; gives the name of the reply among suspects, None where it was of none."""
        key, reply = self._in_flight.pop(packet_id, (None, None))
        if reply is None:
            return None
        if reason < FAILURE:
            reply.sent()
        else:
            self._refused(reply, name_of(reason))
        return key

    def blame(self, key: str) -> None:
        """The broker closes the connection on this reply: it is not sent again."""
        for packet_id, (name, reply) in list(self._in_flight.items()):
            if name == key:
                del self._in_flight[packet_id]
                self._refused(reply, "the broker closes the connection on it")

    def _refused(self, reply: CommandReply, why: str) -> None:
        telemetry.command_reply_refused(self._topic(reply), why)
        if reply.instead is None:
            reply.sent()
        else:
            self._again.append(reply.instead(why))

    def lost(self) -> None:
        """The connection has ended: replies without an acknowledgement are sent again."""
        self._again.extendleft(reversed([reply for _, reply in self._in_flight.values()]))
        self._in_flight.clear()
