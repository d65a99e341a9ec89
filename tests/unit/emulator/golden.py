"""The recordings of a real daemon (``tests/data/golden``), and what makes an answer alike."""

import json
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parents[2] / "data" / "golden"


def records(name: str) -> list[dict[str, Any]]:
    lines = (DIRECTORY / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def shape(value: Any) -> Any:
    """What is left of a JSON value without its values: keys and types. A list is like its first item."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    if isinstance(value, bool | str) or value is None:
        return type(value).__name__
    return "number"


def event_story(events: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Events without what differs from one run to the next: pids, identifiers, times."""
    story = []
    for event in events:
        data = event["data"]
        if isinstance(data, dict):
            data = {key: value for key, value in data.items() if key not in {"pid", "process_uuid"}}
            if data.get("last_error"):
                data["last_error"] = data["last_error"].partition(" ")[2]
        story.append((event["event_type"], data))
    return story
