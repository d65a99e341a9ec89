from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from meshbridge.fields import Options, RetryWaits, SecretFiles, When, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (30, 30),
        (1.5, 1.5),
        ("30", 30),
        ("250ms", 0.25),
        ("10s", 10),
        ("5m", 300),
        ("1h30m", 5400),
        ("7d", 604800),
        ("P1D", 86400),
        ("PT90S", 90),
        ("P1DT2H", 93600),
        ("P2W", 1209600),
    ],
)
def test_durations_are_read_in_every_usual_form(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", -1, "P", "PT", "1x", True, None, "1s and more"])
def test_what_is_no_duration_is_refused_with_examples(text: object) -> None:
    with pytest.raises(ValueError, match=r"not a duration: .*use 250ms"):
        parse_duration(text)


@pytest.mark.parametrize("text", [float("inf"), "9" * 400 + "d", "P40000D", "101000w"])
def test_a_duration_that_no_clock_can_count_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="longer than a hundred years"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [(4096, 4096), ("4096", 4096), ("256KiB", 262144), ("4GiB", 2**32), ("10MB", 10**7), ("1.5 KiB", 1536)],
)
def test_sizes_are_read_in_every_usual_form(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", -1, "1XB", True, None, 2**63, "9" * 400, "8388608TiB"])
def test_what_is_no_size_is_refused_with_examples(text: object) -> None:
    with pytest.raises(ValueError, match=r"not a size: .*256KiB"):
        parse_size(text)


class Durations(Options):
    retry: RetryWaits = RetryWaits()


@given(st.integers(min_value=1, max_value=10_000), st.floats(min_value=0, max_value=1, exclude_max=True))
def test_waits_grow_to_the_longest_and_never_vanish(attempt: int, chance: float) -> None:
    retry = RetryWaits(initial=1.0, max=300.0)
    delay = retry.delay(attempt, chance)
    longest = min(300.0, 2.0 ** (attempt - 1)) if attempt < 20 else 300.0
    assert longest / 2 <= delay <= longest


def test_a_dump_can_be_read_again() -> None:
    settings = Durations(retry=RetryWaits(initial=0.1, max=90))
    dumped = settings.model_dump(mode="json")
    assert dumped == {"retry": {"initial": "0.1s", "max": "90s", "give_up_after": None}}
    assert Durations.model_validate(dumped) == settings


@pytest.mark.parametrize(
    ("when", "event", "app", "wanted"),
    [
        (When(), "start", "web", True),
        (When(events=("START", "exit")), "exit", "web", True),
        (When(events=("start",)), "exit", "web", False),
        (When(apps=("web-*", "db")), "exit", "web-1", True),
        (When(apps=("web-*",)), "exit", "Web-1", False),
        (When(apps=("web-*",), not_apps=("web-9",)), "exit", "web-9", False),
        (When(not_apps=("*",)), "exit", "web", False),
    ],
)
def test_when_takes_events_in_either_case_and_apps_by_pattern(when: When, event: str, app: str, wanted: bool) -> None:
    assert when.wants(event, app) is wanted


def test_an_unknown_event_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValidationError, match="unknown event 'begin': use start, exit"):
        When(events=("begin",))


class Login(SecretFiles):
    password: SecretStr | None = None
    password_file: Path | None = None


def test_a_secret_comes_from_the_value_or_from_the_file_as_it_is_now(tmp_path: Path) -> None:
    assert Login(password=SecretStr("a")).secret("password") == "a"
    assert Login().secret("password") is None
    file = tmp_path / "password"
    file.write_text("old\n")
    login = Login(password_file=file)
    assert login.secret("password") == "old"
    file.write_text("new \r\n")
    assert login.secret("password") == "new "
    file.unlink()
    with pytest.raises(OSError, match="No such file"):
        login.secret("password")


def test_two_sources_of_a_secret_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="password and password_file are both set"):
        Login(password=SecretStr("a"), password_file=tmp_path)


def test_a_secret_shows_in_no_form() -> None:
    login = Login(password=SecretStr("hunter2"))
    assert "hunter2" not in f"{login} {login!r} {login.model_dump()} {login.model_dump_json()}"
