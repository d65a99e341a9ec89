"""The messages of one write to a broker: what is under way, what is safe, what is published again."""

from hypothesis import given
from hypothesis import strategies as st

from meshbridge.sinks.amqp.flight import AmqpFlight, AmqpMessage, AmqpOutcome


def messages(*parts: int) -> list[AmqpMessage]:
    """Events of so many parts each."""
    return [
        AmqpMessage(place, part + 1 == count, f"{place}/{part}", "key", {}, {}, b"")
        for place, count in enumerate(parts)
        for part in range(count)
    ]


def taken(flight: AmqpFlight, window: int = 100) -> list[AmqpMessage]:
    return list(iter(lambda: flight.take(window), None))


def test_no_more_are_under_way_than_the_window_allows() -> None:
    flight = AmqpFlight(messages(1, 1, 1), 3)
    first, second = taken(flight, 2)
    assert flight.take(2) is None
    flight.settle(first, nacked=False, drop_returned=False)
    assert flight.take(2) is not None
    assert (flight.under_way, flight.acknowledged, flight.first_open) == (2, 1, second)


def test_an_event_is_safe_when_all_its_parts_are_and_all_before_it() -> None:
    flight = AmqpFlight(messages(2, 1), 2)
    one, two, three = taken(flight)
    flight.settle(three, nacked=False, drop_returned=False)
    flight.settle(one, nacked=False, drop_returned=False)
    assert flight.acknowledged == 0
    flight.settle(two, nacked=False, drop_returned=False)
    assert (flight.acknowledged, flight.first_open) == (2, None)


def test_a_message_that_came_back_is_not_delivered_though_it_is_confirmed() -> None:
    flight = AmqpFlight(messages(1, 1, 1), 3)
    one = flight.take(1)
    assert one is not None
    flight.note_return(one.id)
    flight.settle(one, nacked=False, drop_returned=False)
    assert (one.outcome, flight.returned, flight.acknowledged) == (AmqpOutcome.RETURNED, [one], 0)
    assert flight.take(1) is None  # nothing more goes out


def test_a_message_that_came_back_may_count_as_dropped() -> None:
    flight = AmqpFlight(messages(1), 1)
    [one] = taken(flight)
    flight.note_return(one.id)
    flight.settle(one, nacked=False, drop_returned=True)
    assert (flight.acknowledged, flight.dropped) == (1, 1)


def test_what_is_published_again_begins_with_the_first_that_is_not_delivered() -> None:
    flight = AmqpFlight(messages(1, 1, 1), 3)
    one, two, three = taken(flight)
    flight.settle(one, nacked=False, drop_returned=False)
    flight.settle(three, nacked=False, drop_returned=False)
    flight.rewind()
    assert taken(flight) == [two, three]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.integers(1, 5), st.data())
def test_whatever_the_order_of_answers_only_a_prefix_is_safe(
    parts: list[int], window: int, data: st.DataObject
) -> None:
    everything = messages(*parts)
    flight = AmqpFlight(everything, len(parts))
    under_way: list[AmqpMessage] = []
    while under_way or flight.first_open is not None:
        under_way += taken(flight, window)
        assert flight.under_way == len(under_way) <= window
        if not under_way:
            break
        one = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
        flight.settle(one, nacked=data.draw(st.integers(0, 9)) == 0, drop_returned=False)
        safe = flight.acknowledged
        assert all(each.outcome is AmqpOutcome.CONFIRMED for each in everything if each.place < safe)
        assert safe == len(parts) or any(
            each.outcome is not AmqpOutcome.CONFIRMED for each in everything if each.place == safe
        )
