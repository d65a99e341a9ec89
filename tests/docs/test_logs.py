"""docs/logs.md has every event of the log, and each name is a short phrase that a program can match."""

import pytest

from tools.logs import PAGE, LogEvent, catalogue, updated


def test_the_page_is_that_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert updated(page) == page, "run `python -m tools.logs`, and look at what it changed"


@pytest.mark.parametrize("event", catalogue(), ids=lambda event: event.name)
def test_an_event_is_a_short_phrase_and_its_fields_are_plain(event: LogEvent) -> None:
    assert len(event.name) <= 50
    assert ":" not in event.name
    assert not event.name.endswith(".")
    assert event.name[0].islower() or event.name.startswith(("App Mesh", "HTTP", "Kubernetes", "MQTT", "TLS"))
    assert all(field.isidentifier() and field == field.lower() for field in event.fields)
