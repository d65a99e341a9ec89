"""One module has every path of the daemon's API, and refuses names that would ask for something else."""

import ast
import re
from pathlib import Path

import pytest

import meshbridge
from meshbridge.appmesh import paths
from meshbridge.appmesh.exceptions import AppMeshRequestError

PACKAGE = Path(meshbridge.__file__).parent
HOME = PACKAGE / "appmesh" / "paths.py"


def texts(path: Path) -> list[tuple[int, str]]:
    """The texts in a module's code, parts of f-strings among them; docstrings are prose."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    ]


def test_every_path_of_the_daemon_stands_in_one_module() -> None:
    modules = [path for path in PACKAGE.rglob("*.py") if "emulator" not in path.parts and path != HOME]
    assert len(modules) > 100
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}"
        for path in modules
        for line, text in texts(path)
        if re.search(r"(^|[\s:])/appmesh/\w", text)
    ]
    assert found == []
    assert any(text == "/appmesh/applications" for _, text in texts(HOME)), "the search finds what there is"


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", "/"])
def test_a_name_that_is_no_part_of_a_path_is_refused(name: str) -> None:
    for path in (paths.app, paths.user, paths.label, paths.role, paths.principal, paths.totp_disable):
        with pytest.raises(AppMeshRequestError, match="no name"):
            path(name)


def test_only_a_path_that_names_nothing_says_by_404_that_it_is_not_known() -> None:
    assert paths.is_fixed(paths.APPS)
    assert paths.is_fixed(paths.USERS)
    assert not paths.is_fixed(paths.app("a"))
    assert not paths.is_fixed(paths.LOGIN), "404 there is an unknown user"
