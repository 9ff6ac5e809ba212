"""When a certificate is renewed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.identity.renewal import FIRST_RETRY, LAST_RETRY, RENEW_AT, SPREAD, Renewal

DAY = 86_400.0


def test_before_two_thirds_of_its_life() -> None:
    assert Renewal(0.0, DAY).wait(0.0, 0.0) == DAY * RENEW_AT
    assert Renewal(0.0, DAY).wait(0.0, 1.0) == DAY * (RENEW_AT - SPREAD)
    renewal = Renewal(0.0, DAY)
    due = renewal.wait(0.0, 0.5)
    assert renewal.wait(due / 2, 0.9) == due / 2  # the first draw counts
    assert renewal.wait(DAY, 0.5) == 0.0


def test_failures_back_off() -> None:
    renewal = Renewal(0.0, DAY)
    delays = [renewal.failed(0.0, 1.0) for _ in range(8)]
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert renewal.wait(0.0, 0.0) == LAST_RETRY
    assert renewal.failures == 8


def test_a_short_life_is_retried_faster() -> None:
    renewal = Renewal(0.0, 20.0)
    for _ in range(8):
        delay = renewal.failed(14.0, 1.0)
    assert delay == 6.0 / 20


def test_without_a_certificate() -> None:
    renewal = Renewal(0.0, 0.0)
    assert renewal.wait(100.0, 0.5) == 0.0
    assert renewal.failed(100.0, 0.0) == FIRST_RETRY / 2
    assert renewal.is_urgent(100.0)


def test_urgency_and_what_is_left() -> None:
    renewal = Renewal(0.0, 60.0)
    assert [renewal.is_urgent(now) for now in (0.0, 49.0, 51.0, 61.0)] == [False, False, True, True]
    assert [renewal.left(now) for now in (0.0, 61.0)] == [60.0, -1.0]


@given(
    st.floats(1.0, 1e7),
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40),
)
def test_there_is_always_another_attempt_soon_enough(life: float, jitters: list[float]) -> None:
    """While the control plane is away, whatever it takes: several attempts before the end, and none at once."""
    renewal = Renewal(0.0, life)
    now = renewal.wait(0.0, jitters[0])
    assert life * (RENEW_AT - SPREAD) <= now <= life * RENEW_AT
    for jitter in jitters:
        delay = renewal.failed(now, jitter)
        assert FIRST_RETRY / 10 <= delay <= LAST_RETRY
        if now < life:
            assert delay <= max((life - now) / 10, FIRST_RETRY / 5)
        now += delay
