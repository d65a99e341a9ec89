"""What CI looks at after the tests: the repository is as it was, and holds no private key."""

import subprocess
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / ".ci" / "check-tree"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    return tmp_path


def git(repository: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=repository, check=True)


def commit(repository: Path, name: str, text: str) -> None:
    path = repository / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "one")


def check(repository: Path) -> tuple[int, str]:
    done = subprocess.run([CHECK], cwd=repository, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def key(kind: str) -> str:
    return f"-----BEGIN {kind}PRIVATE KEY-----\nMHcCAQEE\n-----END {kind}PRIVATE KEY-----\n"


def test_a_clean_repository_passes(repository: Path) -> None:
    commit(repository, "a.txt", "text")
    commit(repository, "tests/data/key.pem", key(""))
    assert check(repository) == (0, "")


@pytest.mark.parametrize(("name", "text"), [("left.txt", "untracked"), ("a.txt", "changed")])
def test_what_tests_leave_behind_is_named(repository: Path, name: str, text: str) -> None:
    commit(repository, "a.txt", "text")
    (repository / name).write_text(text)
    code, errors = check(repository)
    assert code == 1
    assert name in errors


@pytest.mark.parametrize("kind", ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "])
@pytest.mark.parametrize("name", ["mesh/ssl/server-key.pem", "docs/page.md", "tests/data.pem"])
def test_a_private_key_outside_the_test_data_is_named(repository: Path, kind: str, name: str) -> None:
    commit(repository, name, f"before\n{key(kind)}")
    code, errors = check(repository)
    assert code == 1
    assert name in errors
