"""The public names of the official client of 3.0.14 are here too, and take its calls.

Where the two official clients contradict each other, the reference (2.2.7) wins; each such place is listed.
"""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

import meshbridge.appmesh

SURFACE = orjson.loads((Path(__file__).parents[2] / "data" / "reference" / "appmesh-3.0.14-surface.json").read_bytes())

OTHER_NAMES = {  # the same place, by its name in 2.2.7; given by position it is the same call
    ("AppOutput.__init__", "output_position"): "out_position",
    ("AppRun.__init__", "process_uuid"): "process_id",
    ("App.set_permission", "others_user"): "group_user",
}
OTHER_DEFAULTS = {
    "ssl_verify": "2.2.7 verifies nothing unless told to; None, which means auto, is taken",
    "preserve_permissions": "2.2.7 keeps them",
}
OTHER_VALUES = {
    "TCPTransport.TCP_MAX_BLOCK_SIZE": "the limit of 2.2.7",
}
LEFT_OUT = {
    "MessageDemuxer": "how the official client reads a connection: no user calls it; here that is a Channel",
    "TCPTransport.receive_message": "takes the end of a file for None",
}
CASES = [
    (module, name, member, signature)
    for module, names in SURFACE.items()
    if module != "appmesh"
    for name, members in names.items()
    if name not in LEFT_OUT
    for member, signature in ({"": members}.items() if isinstance(members, str) else members.items())
]


def home_of(module: str, name: str) -> Any:
    found = importlib.import_module(f"meshbridge.{module}")
    return getattr(found, name)


def parameters(signature: str) -> list[tuple[str, bool, str | None]]:
    """Of a signature as text: names, whether by keyword only, and defaults. Annotations hold commas and brackets."""
    inside = re.sub(r"\)\s*(->.*)?$", "", signature.removeprefix("@classmethod ").strip()[1:])
    parts, depth, start = [], 0, 0
    for position, sign in enumerate(inside):
        depth += (sign in "[({") - (sign in "])}")
        if sign == "," and depth == 0:
            parts.append(inside[start:position])
            start = position + 1
    parts.append(inside[start:])
    found, keyword_only = [], False
    for part in (part.strip() for part in parts):
        if part == "*":
            keyword_only = True
        elif part and part not in {"self", "cls"}:
            name = re.match(r"\w+", part)
            assert name is not None, part
            default = part.rpartition(" = ")[2] if " = " in part else None
            found.append((name[0], keyword_only, default))
    return found


def test_the_package_exports_what_the_official_one_does() -> None:
    assert set(SURFACE["appmesh"]["__all__"]) <= set(meshbridge.appmesh.__all__)
    for name in SURFACE["appmesh"]["__all__"]:
        assert getattr(meshbridge.appmesh, name) is not None or name == "OutputHandler"


@pytest.mark.parametrize(("module", "name", "member", "signature"), CASES, ids=[".".join(c[:3]) for c in CASES])
def test_a_public_name_of_3_0_14_is_here(module: str, name: str, member: str, signature: str) -> None:
    home = home_of(module, name)
    if not member:  # a constant, a function, or a type
        if signature.startswith("("):
            assert callable(home)
        elif signature.startswith("'"):
            assert repr(home) == signature
        return
    if member == "(bases)":
        expected = [base.strip() for base in signature.split(",")]
        names = [base.__name__ for base in home.__mro__]
        assert [base for base in expected if base not in names] == []
        return
    if signature.startswith("(class)"):
        inner = getattr(home, member)
        for part in filter(None, re.split(r",\s*", signature.removeprefix("(class)").strip())):
            assert hasattr(inner, part), part
        return
    if f"{name}.{member}" in LEFT_OUT:
        return
    if signature.startswith("= "):
        assert_constant(home, name, member, signature.removeprefix("= "))
        return
    assert hasattr(home, member), f"{name}.{member} is missing"
    if signature.startswith("(property)"):
        assert isinstance(inspect.getattr_static(home, member), property)
        return
    assert_takes(home, name, member, signature)


def assert_constant(home: Any, name: str, member: str, value: str) -> None:
    if f"{name}.{member}" in OTHER_VALUES:
        assert hasattr(home, member)
        return
    found = getattr(home, member, None)
    if found is None or inspect.ismemberdescriptor(found):  # a field of a dataclass with slots
        found = inspect.signature(home).parameters[member].default
    assert repr(found) == value


def assert_takes(home: Any, name: str, member: str, signature: str) -> None:
    found = dict(inspect.signature(getattr(home, member)).parameters)
    found.pop("self", None)
    positions = [one for one, kind in found.items() if kind.kind is not inspect.Parameter.KEYWORD_ONLY]
    for position, (parameter, keyword_only, default) in enumerate(parameters(signature)):
        here = OTHER_NAMES.get((f"{name}.{member}", parameter), parameter)
        assert here in found, parameter
        if not keyword_only and here != "stdout_handler":
            assert positions.index(here) == position, parameter
        if default is None or parameter in OTHER_DEFAULTS or "factory" in default:
            continue
        assert repr(found[here].default) == default, parameter
    required = {one for one, kind in found.items() if kind.default is inspect.Parameter.empty}
    assert required <= {OTHER_NAMES.get((f"{name}.{member}", one), one) for one, _, _ in parameters(signature)}
