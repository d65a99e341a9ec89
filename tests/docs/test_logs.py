"""docs/logs.md has every event of the log, and each name is a short phrase that a program can match."""

from tools.logs import PAGE, LogEvent, catalogue, updated


def test_the_page_is_that_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert updated(page) == page, "run `python -m tools.logs`, and look at what it changed"


def test_an_event_is_a_short_phrase_and_its_fields_are_plain() -> None:
    events = catalogue()
    assert events
    for event in events:
        assert _is_plain(event), event


def _is_plain(event: LogEvent) -> bool:
    return (
        len(event.name) <= 50
        and ":" not in event.name
        and not event.name.endswith(".")
        and (event.name[0].islower() or event.name.startswith(("App Mesh", "HTTP", "Kubernetes", "MQTT", "TLS")))
        and all(field.isidentifier() and field == field.lower() for field in event.fields)
    )
