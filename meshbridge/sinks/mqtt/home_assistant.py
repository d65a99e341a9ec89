"""Discovery of apps by Home Assistant, which makes a device of each: https://www.home-assistant.io/integrations/mqtt/

One message announces a device with all its entities (device discovery, since Home Assistant 2024.11); an empty one
removes it. The entities read the app's state topic; memory and CPU read the figures beside it, which come by a clock.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import orjson

from meshbridge import __version__
from meshbridge.model.app_state import State

__all__ = ["BIRTH", "STATUS_TOPIC", "announcement", "topic"]

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


def announcement(daemon: str, app: str, state_topic: str, figures_topic: str, availability: Sequence[str]) -> bytes:
    """The device of an app: available while every topic of ``availability`` is online."""
    identifier = _object_id(daemon, app)
    components = _COMPONENTS | {key: one | {"state_topic": figures_topic} for key, one in _FIGURES.items()}
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
            "components": {key: one | {"unique_id": f"{identifier}_{key}"} for key, one in components.items()},
        }
    )


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
