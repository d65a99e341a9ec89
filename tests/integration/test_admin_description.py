"""The description of the API: whole, and shown as a page without outside requests."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import jsonschema
import pytest

from meshbridge.admin.options import Scope
from meshbridge.admin.problems import MEANINGS, ProblemKind
from tests.integration.admin_access import Door, doors

METHODS = {"get", "put", "post", "patch", "delete"}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with doors(tmp_path_factory.mktemp("door")) as open_door:
        yield open_door()


@pytest.fixture(scope="module")
def described(door: Door) -> dict[str, Any]:
    response, found = door.ask("GET", "/openapi.json")
    assert response.status == 200
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def operations(described: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = [
        (f"{method.upper()} {path}", operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]
    assert len(found) > 50
    return dict(found)


def test_every_operation_has_a_name_of_its_own_and_says_what_it_does(operations: dict[str, dict[str, Any]]) -> None:
    names = [operation["operationId"] for operation in operations.values()]
    assert sorted(names) == sorted(set(names))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in names)
    assert [name for name, operation in operations.items() if not operation.get("description")] == []


def test_every_area_is_described(described: dict[str, Any], operations: dict[str, dict[str, Any]]) -> None:
    areas = {tag["name"] for tag in described["tags"]}
    assert {tag for operation in operations.values() for tag in operation["tags"]} == areas


def test_every_operation_says_which_scope_it_needs(
    described: dict[str, Any], operations: dict[str, dict[str, Any]]
) -> None:
    assert described["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    for name, operation in operations.items():
        ((scope,),) = (needed["token"] for needed in operation["security"])
        assert scope in list(Scope), name


def test_every_refusal_is_a_problem(described: dict[str, Any], operations: dict[str, dict[str, Any]]) -> None:
    for name, operation in operations.items():
        refusals = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
        assert {"401", "403", "429", "500", "503"} <= set(refusals), name
        for answer in refusals.values():
            assert list(answer["content"]) == ["application/problem+json"], name
            assert answer["description"], name
    kinds = described["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert kinds == [f"/problems/{kind}" for kind in ProblemKind]


def test_every_parameter_says_what_it_is(operations: dict[str, dict[str, Any]]) -> None:
    unsaid = [
        (name, parameter["name"])
        for name, operation in operations.items()
        for parameter in operation.get("parameters", ())
        if not parameter.get("description")
    ]
    assert unsaid == []


def test_examples_fit_what_they_are_examples_of(operations: dict[str, dict[str, Any]]) -> None:
    shown = 0
    for operation in operations.values():
        for parameter in operation.get("parameters", ()):
            for example in parameter["schema"].get("examples", ()):
                jsonschema.validate(example, parameter["schema"])
                shown += 1
    assert shown > 50


def test_what_an_operation_answers_is_what_it_says(door: Door, described: dict[str, Any]) -> None:
    components = {"components": described["components"]}
    for path, status in {"/api/v1/bridge": 200, "/api/v1/bridge/sinks": 200, "/api/v1/bridge/replays/x": 404}.items():
        response, body = door.ask("GET", path, door.secret)
        assert response.status == status
        template = path.replace("replays/x", "replays/{replay}")
        (content,) = described["paths"][template]["get"]["responses"][str(status)]["content"].values()
        jsonschema.validate(body, content["schema"] | components)


class Page(HTMLParser):
    """What a page has, and what it would ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.asks: list[str] = []
        self.links: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.asks += [given[name] or "" for name in ("src", "srcset", "data", "action") if name in given]
        if tag == "link":
            self.asks.append(given["href"] or "")
        elif tag == "a":
            self.links.append(given["href"] or "")
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        self.inline += [tag] if tag in {"script", "style", "iframe", "object"} else []


def test_the_page_shows_everything_and_asks_nobody_else(door: Door, operations: dict[str, dict[str, Any]]) -> None:
    response, content = door.ask("GET", "/docs")
    assert response.status == 200
    page = Page(content.decode())
    assert {operation["operationId"] for operation in operations.values()} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert page.asks == ["/docs/reference.css"]
    assert page.inline == []
    assert [link for link in page.links if not link.startswith(("#", "/"))] == []
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["style-src"] == "'self'"
    assert "script-src" not in policy
    assert door.ask("GET", "/docs/reference.css")[0].headers["content-type"].startswith("text/css")


@pytest.mark.parametrize("kind", ProblemKind)
def test_the_type_of_a_problem_leads_to_what_it_means(door: Door, kind: ProblemKind) -> None:
    response, _ = door.ask("GET", f"/problems/{kind}")
    assert (response.status, response.headers["location"]) == (303, f"/docs#problem-{kind}")
    assert f"problem-{kind}" in Page(door.ask("GET", "/docs")[1].decode()).ids
    assert len(MEANINGS[kind]) > 20


def test_a_kind_that_there_is_not_is_no_page(door: Door) -> None:
    assert door.ask("GET", "/problems/nope")[0].status == 422
