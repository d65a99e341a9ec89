"""Discovery of apps by Home Assistant, which makes a device of each: https://www.home-assistant.io/integrations/mqtt/

One message announces a device with all its entities (device discovery, since Home Assistant 2024.11); an empty one
removes it. The entities read the app's state topic; memory and CPU read the figures beside it, which come by a clock.
A switch and buttons send commands, where the sink takes these. Home Assistant removes an entity that a device had when
it is announced with its platform alone; so a bridge must remember which devices had them.
"""

import hashlib
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import orjson

from meshbridge import __version__
from meshbridge.model.app_state import State
from meshbridge.sinks.commands import CommandWord

__all__ = ["BIRTH", "STATUS_TOPIC", "Commanding", "announcement", "command_entities", "topic"]

_PREFIX = "homeassistant"  # Home Assistant's defaults
STATUS_TOPIC = f"{_PREFIX}/status"
BIRTH = b"online"


TOPICS = f"{_PREFIX}/device/+/config"


def topic(daemon: str, app: str) -> str:
    """Where the device of an app is announced."""
    return f"{_PREFIX}/device/{_object_id(daemon, app)}/config"


def prefix(daemon: str) -> str:
    """How the topics of all its apps begin, and of no other daemon: a daemon's name has no ``_``."""
    return f"{_PREFIX}/device/meshbridge_{daemon}_"


def is_own(topic: str) -> bool:
    """Whether a bridge has announced a device there."""
    return topic.startswith(f"{_PREFIX}/device/meshbridge_")


def discovery_first(topic: str) -> int:
    """A key to sort by: what is cleared must be gone as a device before the topics that its entities read."""
    return 0 if topic.startswith(f"{_PREFIX}/") else 1


def _object_id(daemon: str, app: str) -> str:
    """A name of letters, digits, ``_`` and ``-`` (all that Home Assistant takes), another one for every app."""
    plain = re.sub(r"[^a-zA-Z0-9-]", "_", app)
    if plain != app:
        plain += "_" + hashlib.sha256(app.encode()).hexdigest()[:8]
    return f"meshbridge_{daemon}_{plain}"


class Commanding(NamedTuple):
    """The commands that an app takes, and where."""

    topic: str
    allowed: Collection[CommandWord]
    had: Collection[str] = ()
    """The entities for commands that the device may have had before."""


def announcement(
    daemon: str,
    app: str,
    state_topic: str,
    figures_topic: str,
    availability: Sequence[str],
    *,
    commanding: Commanding | None = None,
) -> bytes:
    """The device of an app: there while every topic of ``availability`` is online."""
    identifier = _object_id(daemon, app)
    components = _COMPONENTS | {key: one | {"state_topic": figures_topic} for key, one in _FIGURES.items()}
    named = {key: one | {"unique_id": f"{identifier}_{key}"} for key, one in components.items()}
    if commanding is not None:
        named |= _command_entities(identifier, commanding)
    return orjson.dumps(
        {
            "device": {
                "identifiers": [identifier],
                "name": f"{app} on {daemon}",
                "manufacturer": "App Mesh",
                "model": "application",
            },
            "origin": {"name": "meshbridge", "sw_version": __version__},
            "availability": [{"topic": one} for one in availability],
            "availability_mode": "all",
            "state_topic": state_topic,
            "qos": 1,
            "components": named,
        }
    )


def _command_entities(identifier: str, commanding: Commanding) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    present = command_entities(commanding.allowed)
    for key, (_, entity) in _COMMANDS.items():
        if key in present:
            found[key] = entity | {"command_topic": commanding.topic, "unique_id": f"{identifier}_{key}"}
        elif key in commanding.had:
            found[key] = {"platform": entity["platform"]}
    return found


def command_entities(allowed: Collection[CommandWord]) -> list[str]:
    """Names of the entities for commands that a device has."""
    return [key for key, (needed, _) in _COMMANDS.items() if needed <= {*allowed}]


# A template that gives None makes the value unknown. An empty payload, which clears a topic, has no value_json.
_COMPONENTS: dict[str, dict[str, Any]] = {
    "state": {
        "platform": "sensor",
        "name": "State",
        "device_class": "enum",
        "options": [state.value for state in State],
        "value_template": "{{ value_json.state if value_json is defined else None }}",
    },
    "health": {
        "platform": "binary_sensor",
        "name": "Health",
        "device_class": "problem",
        "value_template": "{{ None if value_json is not defined or value_json.health is none else"
        " 'OFF' if value_json.health == 0 else 'ON' }}",
    },
    "last_exit": {
        "platform": "sensor",
        "name": "Last exit",
        "device_class": "timestamp",
        "value_template": "{{ None if value_json is not defined or value_json.exited_at is none else"
        " (value_json.exited_at | as_datetime).isoformat() }}",
    },
    "exit_code": {
        "platform": "sensor",
        "name": "Last exit code",
        "entity_category": "diagnostic",
        "value_template": "{{ value_json.exit_code if value_json is defined else None }}",
    },
    "starts": {
        "platform": "sensor",
        "name": "Starts",
        "entity_category": "diagnostic",
        "state_class": "total_increasing",
        "value_template": "{{ value_json.starts if value_json is defined else None }}",
    },
}
_FIGURES: dict[str, dict[str, Any]] = {
    "memory": {
        "platform": "sensor",
        "name": "Memory",
        "device_class": "data_size",
        "unit_of_measurement": "B",
        "state_class": "measurement",
        "value_template": "{{ value_json.memory_bytes if value_json is defined else None }}",
    },
    "cpu": {
        "platform": "sensor",
        "name": "CPU",
        "unit_of_measurement": "%",
        "state_class": "measurement",
        "value_template": "{{ value_json.cpu_percent if value_json is defined else None }}",
    },
}
_COMMANDS: dict[str, tuple[frozenset[CommandWord], dict[str, Any]]] = {
    "enabled": (
        frozenset({CommandWord.ENABLE, CommandWord.DISABLE}),
        {
            "platform": "switch",
            "name": "Enabled",
            "payload_on": CommandWord.ENABLE.value,
            "payload_off": CommandWord.DISABLE.value,
            "state_on": "ON",
            "state_off": "OFF",
            "optimistic": False,  # the state topic says what the daemon did
            "value_template": "{{ None if value_json is not defined else"
            " 'OFF' if value_json.state == 'disabled' else 'ON' }}",
        },
    ),
    "restart": (
        frozenset({CommandWord.RESTART}),
        {
            "platform": "button",
            "name": "Restart",
            "device_class": "restart",
            "payload_press": CommandWord.RESTART.value,
        },
    ),
    "run": (
        frozenset({CommandWord.RUN}),
        {"platform": "button", "name": "Run", "payload_press": CommandWord.RUN.value},
    ),
}
