"""The public reference, read as text: every module, class, name, parameter, default and constant of it is here."""

import ast
import enum
import importlib
import inspect
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import meshbridge.appmesh
from meshbridge.appmesh.app import App

REFERENCE = Path(__file__).parents[2] / "data" / "reference" / "appmesh-python-sdk-reference.txt"
FACTORY = object()


@dataclass
class Signature:
    names: list[str] = field(default_factory=list)
    keyword_only: set[str] = field(default_factory=set)
    defaults: dict[str, Any] = field(default_factory=dict)


@dataclass
class Entry:
    """A line of the reference that names something: ``owners`` are the classes that it can belong to."""

    kind: str
    module: str
    owners: list[str]
    name: str
    signature: Signature | None = None
    value: Any = None

    def __str__(self) -> str:
        return ".".join(part for part in (self.module, self.owners[-1] if self.owners else "", self.name) if part)


def read_signature(text: str) -> Signature:
    signature = Signature()
    source = text.replace("<factory>", "FACTORY")
    parsed = ast.parse(f"def f({source}): pass").body[0]
    assert isinstance(parsed, ast.FunctionDef)
    arguments = parsed.args
    for argument in (*arguments.args, *arguments.kwonlyargs):
        signature.names.append(argument.arg)
    signature.keyword_only = {argument.arg for argument in arguments.kwonlyargs}
    defaults = (
        [*zip(arguments.args[-len(arguments.defaults) :], arguments.defaults, strict=True)]
        if arguments.defaults
        else []
    )
    for argument, default in (*defaults, *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)):
        assert default is not None
        is_factory = isinstance(default, ast.Name)
        signature.defaults[argument.arg] = FACTORY if is_factory else ast.literal_eval(default)
    return signature


def read_reference() -> list[Entry]:  # noqa: C901 one branch for each kind of line
    """The flat text does not say where a nested class ends: what follows may belong to it, or to one around it."""
    entries: list[Entry] = []
    module = ""
    owners: list[str] = []
    for line in REFERENCE.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"appmesh\.(\w+) module", line):
            module, owners = match[1], []
            entries.append(Entry("module", module, [], ""))
        elif line == "Module contents":
            module, owners = "", []
        elif match := re.fullmatch(r"(?:class|exception) appmesh\.(?:(\w+)\.)?(\w+)(?:\((.*)\))?\[source\]", line):
            assert (match[1] or "") == module
            owners = [match[2]]
            entries.append(Entry("class", module, [], match[2], None if match[3] is None else read_signature(match[3])))
        elif match := re.fullmatch(r"class (\w+)\((.*)\)\[source\]", line):
            entries.append(Entry("class", module, list(owners), match[1], read_signature(match[2])))
            owners = [*owners, *(f"{owner}.{match[1]}" for owner in owners)]
        elif match := re.fullmatch(r"appmesh\.(?:\w+\.)?(\w+)\((.*)\)\[source\]", line):
            entries.append(Entry("function", module, [], match[1], read_signature(match[2])))
        elif match := re.fullmatch(r"(?:classmethod )?(\w+)\((.*)\)\[source\]", line):
            entries.append(Entry("method", module, list(owners), match[1], read_signature(match[2])))
        elif match := re.fullmatch(r"property (\w+): .*", line):
            entries.append(Entry("attribute", module, list(owners), match[1]))
        elif match := re.fullmatch(r"([A-Z][A-Z_]+) = (.+)", line):
            entries.append(Entry("constant", module, list(owners), match[1], value=ast.literal_eval(match[2])))
        elif match := re.fullmatch(r"(\w+): [\w\[\], |]+ = (.+)", line):
            entries.append(Entry("default", module, list(owners), match[1], value=ast.literal_eval(match[2])))
        elif owners[:1] == ["App"] and re.fullmatch(r"[a-z][a-z_]+", line):
            entries.append(Entry("attribute", module, list(owners), line))
    return entries


ENTRIES = read_reference()


def homes(entry: Entry) -> list[Any]:
    """Where the thing may live: the module, or those of its possible owners that have it."""
    module = importlib.import_module(f"meshbridge.appmesh.{entry.module}" if entry.module else "meshbridge.appmesh")
    if not entry.owners:
        return [module]
    found = []
    for owner in entry.owners:
        home: Any = module
        for part in owner.split("."):
            home = getattr(home, part, None)
        if home is not None and (hasattr(home, entry.name) or entry.name in instance_attributes(home)):
            found.append(home)
    return found


def instance_attributes(home: Any) -> set[str]:
    if (
        not home.__qualname__.startswith(App.__name__)
        or home.__module__ != App.__module__
        or issubclass(home, enum.Enum)
    ):
        return set()
    return set(vars(home()))


def assert_same_signature(found: Any, expected: Signature, *, skip_self: bool) -> None:
    parameters = list(inspect.signature(found).parameters.values())
    if skip_self and parameters and parameters[0].name in {"self", "cls"}:
        parameters = parameters[1:]
    by_name = {parameter.name: parameter for parameter in parameters}
    positional = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    wanted = [name for name in expected.names if name not in expected.keyword_only]
    assert positional[: len(wanted)] == wanted  # more may follow, with defaults
    for name in expected.names:
        parameter = by_name[name]
        assert (parameter.kind is inspect.Parameter.KEYWORD_ONLY) == (name in expected.keyword_only), name
        if name not in expected.defaults:
            pass  # a default here takes every call that the reference takes
        elif expected.defaults[name] is FACTORY:
            assert parameter.default is not inspect.Parameter.empty, name
        else:
            assert parameter.default == expected.defaults[name], name
    assert all(p.default is not p.empty for p in parameters if p.name not in expected.names), "more is required"


def test_the_reference_was_understood() -> None:
    kinds = [entry.kind for entry in ENTRIES]
    assert kinds.count("module") == 17
    assert kinds.count("class") > 40
    assert kinds.count("method") > 140
    assert kinds.count("constant") >= 20
    assert kinds.count("attribute") > 90


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_everything_in_the_reference_is_here(entry: Entry) -> None:
    if entry.kind == "module":
        assert importlib.import_module(f"meshbridge.appmesh.{entry.module}").__all__
        return
    found = homes(entry)
    assert found, f"{entry} is missing"
    home = found[-1]
    thing = getattr(home, entry.name, None)
    if entry.kind == "constant":
        values = [getattr(candidate, entry.name) for candidate in found]
        assert entry.value in [value.value if isinstance(value, enum.Enum) else value for value in values]
    elif entry.kind == "default":
        parameter = inspect.signature(home).parameters[entry.name]
        assert parameter.default == entry.value
    elif entry.kind in {"class", "function", "method"} and entry.signature is not None:
        assert thing is not None
        if not (inspect.isclass(thing) and issubclass(thing, enum.Enum | BaseException)):
            errors = []
            for candidate in found:
                try:
                    assert_same_signature(
                        getattr(candidate, entry.name), entry.signature, skip_self=entry.kind == "method"
                    )
                    break
                except (AssertionError, KeyError) as error:
                    errors.append(error)
            else:
                raise errors[-1]


def test_the_package_exports_what_the_official_one_does() -> None:
    listed = {entry.name for entry in ENTRIES if not entry.module and not entry.owners and entry.kind != "module"}
    assert listed | {"AppMeshClientOAuth", "OutputHandler"} <= set(meshbridge.appmesh.__all__)


def test_all_exports_exist_and_are_listed() -> None:
    for name in meshbridge.appmesh.__all__:
        assert getattr(meshbridge.appmesh, name) is not None
        assert name in dir(meshbridge.appmesh)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        _ = meshbridge.appmesh.Nope


def printed(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return result.stdout.strip()


def test_importing_the_package_imports_nothing_else() -> None:
    code = """
import sys, meshbridge.appmesh
print([m for m in sys.modules if m.startswith("meshbridge.appmesh.") or m in ("requests", "websocket", "msgpack")])
"""
    assert printed(code) == "[]"


def test_importing_every_module_starts_nothing() -> None:
    modules = [f"meshbridge.appmesh.{entry.module}" for entry in ENTRIES if entry.kind == "module"]
    code = f"""
import importlib, threading
for module in {modules!r}:
    importlib.import_module(module)
print(threading.active_count())
"""
    assert printed(code) == "1"


def test_the_values_of_errors_are_kept() -> None:
    from meshbridge.appmesh import exceptions

    for name in exceptions.__all__:
        if name == "LoginFault":
            continue
        error = getattr(exceptions, name)("words", status=400, operation="GET /x")
        assert isinstance(error, exceptions.AppMeshError)
        assert (str(error), error.message, error.status, error.operation) == ("words", "words", 400, "GET /x")
