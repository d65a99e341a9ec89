"""What a destination may send that it was not asked for."""

from meshbridge.sinks.allowance import Allowance


def test_some_at_once_some_with_time_and_more_with_what_was_sent() -> None:
    now = [0.0]
    allowance = Allowance(burst=10, per_second=2.0, clock=lambda: now[0])
    assert allowance.spend(10)
    now[0] += 3.0
    assert allowance.spend(6), "two each second"
    assert not allowance.spend(1)
    allowance.earn(1)
    assert allowance.spend(0), "an answer to what was sent"
    now[0] += 1_000.0
    assert allowance.spend(10)
    assert not allowance.spend(1), "rest is not saved up"
    allowance.earn(100_001)
    now[0] += 1.0
    assert allowance.spend(100_000), "answers are, however many are under way"
