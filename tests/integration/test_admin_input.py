"""Input that no honest caller sends, to the areas that write: it is refused, and costs the journal nothing."""

import json
from collections.abc import Iterator

import pytest

from meshbridge.admin.options import Scope
from tests.integration.admin_access import SECRETS, Door, doors
from tests.support import make_event

HUGE = 10**30
LETTERS = "/api/v1/bridge/dead-letters"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with doors(tmp_path_factory.mktemp("door")) as open_door:
        yield open_door()


def post(door: Door, path: str, body: str) -> int:
    headers = {"Content-Type": "application/json"}
    return door.ask("POST", path, SECRETS[Scope.ADMIN], body=body.encode(), headers=headers)[0].status


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"ids": [HUGE]}),
        json.dumps({"ids": [-1]}),
        json.dumps({"ids": list(range(1, 50_000))}),
        '{"sink": "\\ud800"}',
        '{"sink": "a\\u0000b"}',
        json.dumps({"sink": "x" * 5000}),
        "[" * 50_000,
        '{"ids": [' + "9" * 10_000 + "]}",
    ],
)
@pytest.mark.parametrize("operation", ["retry", "drop"])
def test_letters_that_there_cannot_be_are_refused_and_the_journal_goes_on(
    door: Door, operation: str, body: str
) -> None:
    assert post(door, f"{LETTERS}/{operation}", body) in {400, 422}
    before = door.journal.extent[1]
    assert door.journal.append([make_event(1)]) == before + 1
    assert door.journal.status().last_error is None


@pytest.mark.parametrize(
    "body",
    ['{"id": "\\ud800"}', json.dumps({"id": "x" * 100_000}), '{"event": {"a": "\\ud800"}}', "[" * 50_000, "\xff"],
)
def test_an_event_that_there_cannot_be_is_not_explained(door: Door, body: str) -> None:
    assert post(door, "/api/v1/bridge/explain", body) in {200, 400, 404, 422}


@pytest.mark.parametrize(
    "path", ["/api/v1/bridge/", "//api/v1/bridge", "/api/v1/bridge/sinks/%ff/", "/api/v1/../v1/bridge"]
)
def test_a_path_is_that_path_and_nobody_is_sent_elsewhere(door: Door, path: str) -> None:
    response, _ = door.ask("GET", path, SECRETS[Scope.ADMIN], headers={"Host": "evil.example"})
    assert response.status == 404


def test_an_empty_last_event_id_is_none(door: Door) -> None:
    with door.events(last="") as stream:
        stream.until_line(b"id:")
