from hypothesis import given
from hypothesis import strategies as st

from meshbridge.link.numbering import Numbering
from tests.support import push_body


@given(st.sets(st.integers(min_value=1, max_value=60)), st.none() | st.integers(min_value=0, max_value=10))
def test_every_hole_is_told_once_before_the_event_that_shows_it(received: set[int], last: int | None) -> None:
    numbering = Numbering("node-a", "17", last, complete=True)
    sequences = sorted(number for number in received if last is None or number > last)
    told: list[int] = []
    for sequence in sequences:
        read = numbering.read([push_body(sequence)], 1.0)
        for first, end in read.gaps:
            told += range(first, end + 1)
        assert [event.sequence for event in read.events] == [sequence]
    if sequences:
        start = sequences[0] if last is None else last + 1
        assert sorted(told + sequences) == list(range(start, sequences[-1] + 1))
        assert numbering.last == sequences[-1]


def test_a_part_of_the_events_shows_no_holes() -> None:
    numbering = Numbering("node-a", "17", 3, complete=False)
    assert numbering.read([push_body(9), push_body(20)], 1.0).gaps == []


def test_a_message_that_is_no_event_is_told_and_the_rest_goes_on() -> None:
    numbering = Numbering("node-a", "17", None, complete=True)
    read = numbering.read([push_body(1), b"junk", push_body(2)], 1.0)
    assert [event.sequence for event in read.events] == [1, 2]
    assert read.counts == {"stdout": 2}
    assert len(read.invalid) == 1
