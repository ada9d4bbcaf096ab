"""Waiting for a condition by a clock."""

from __future__ import annotations

from esper.clock import ManualClock, SystemClock


def test_a_condition_that_holds_costs_no_time() -> None:
    """It is looked at once, also where no time is given, and the clock does not move."""
    clock = ManualClock()
    before = clock.monotonic()
    assert clock.wait_until(lambda: True, 0.0, 1.0)
    assert clock.monotonic() == before


def test_a_condition_is_looked_at_until_it_holds() -> None:
    """Each nap brings one more look, and the wait ends with the first that is fulfilled."""
    clock, looks = ManualClock(), iter([False, False, True])
    before = clock.now_us()
    assert clock.wait_until(lambda: next(looks), 10.0, 0.5)
    assert clock.now_us() - before == 1_000_000
    assert not list(looks)


def test_the_wait_ends_with_its_time_and_a_last_look() -> None:
    """What never holds is looked at after each nap, also when the time is over: what came in the
    last nap still counts.
    """
    clock, looked = ManualClock(), list[int]()
    start = clock.now_us()

    def never() -> bool:
        looked.append(clock.now_us() - start)
        return False

    assert not clock.wait_until(never, 1.0, 0.5)
    assert looked == [0, 500_000, 1_000_000]
    assert clock.wait_until(lambda: clock.now_us() - start >= 2_000_000, 1.0, 0.5)


def test_no_time_is_one_look() -> None:
    """Without time nothing sleeps, on the machine's clock too."""
    looks = iter([False, True])
    assert not SystemClock().wait_until(lambda: next(looks), 0.0, 600.0)
    assert list(looks) == [True]


def test_the_machines_clock_waits_too() -> None:
    """What another moment brings is met."""
    looks = iter([False, True])
    assert SystemClock().wait_until(lambda: next(looks), 60.0, 0.001)
