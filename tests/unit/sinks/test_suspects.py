"""Which message a broker closes the connection on."""

from hypothesis import given
from hypothesis import strategies as st

from meshbridge.sinks.mqtt.suspects import Suspects


def test_the_one_that_ends_the_connection_twice_alone_is_found() -> None:
    suspects = Suspects()
    assert suspects.hung_up(["a", "b", "c"]) is None
    assert suspects.careful
    suspects.answered("a")
    assert suspects.hung_up(["b"]) is None
    assert suspects.hung_up(["b"]) == "b"
    assert suspects.careful  # c has not been answered yet
    suspects.answered("c")
    assert not suspects.careful


def test_a_bystander_is_not_blamed() -> None:
    suspects = Suspects()
    suspects.hung_up(["a", "b"])
    suspects.answered("a")
    assert suspects.hung_up(["b"]) is None  # once may be chance
    suspects.answered("b")
    assert suspects.hung_up(["b"]) is None
    suspects.forget()
    assert suspects.hung_up(["b"]) is None


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_what_is_answered_in_between_is_never_blamed(cut: list[str]) -> None:
    suspects = Suspects()
    for key in cut:
        assert suspects.hung_up([key]) is None
        suspects.answered(key)
    assert not suspects.careful


def test_nothing_in_flight_blames_nothing() -> None:
    suspects = Suspects()
    assert suspects.hung_up([]) is None
    assert not suspects.careful
