"""Buckets and rate limiters: literal cases, and what must hold whatever is taken when."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.routing import rate_limit as module
from meshproxy.routing.rate_limit import LOOKED_AT, MAX_BUCKETS, ROUNDING, Bucket, Denied, RateLimiter
from tests.thorough import tries

RATES = st.floats(0.01, 1e9)
BURSTS = st.floats(0.1, 3600.0)
WAITS = st.floats(0.0, 100.0)
STARTS = st.sampled_from([0.0, 1.0, 12_345.678, 3e7])


def test_a_new_bucket_is_full() -> None:
    bucket = Bucket(10.0, 20.0)

    assert bucket.left(5.0) == pytest.approx(20.0)
    assert bucket.take(20.0, 5.0) == 0.0
    assert bucket.take(1.0, 5.0) == pytest.approx(0.1)


def test_a_refusal_takes_nothing() -> None:
    bucket = Bucket(10.0, 20.0)
    bucket.take(15.0, 5.0)

    for _ in range(100):
        assert bucket.take(10.0, 5.0) == pytest.approx(0.5)

    assert bucket.take(5.0, 5.0) == 0.0


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = Bucket(10.0, 20.0)
    bucket.take(20.0, 0.0)

    assert bucket.left(1e6) == pytest.approx(20.0)


def test_a_debt_is_repaid_before_anything_is_left() -> None:
    bucket = Bucket(10.0, 20.0)

    bucket.charge(70.0, 5.0)

    assert bucket.left(5.0) == pytest.approx(-50.0)
    assert bucket.wait(0.0, 5.0) == pytest.approx(5.0)
    assert bucket.wait(0.0, 9.9) == pytest.approx(0.1)
    assert bucket.wait(0.0, 10.0) == 0.0
    assert bucket.take(1.0, 10.0) == pytest.approx(0.1)
    assert bucket.left(11.0) == pytest.approx(10.0)


@given(
    rate=RATES,
    burst_seconds=BURSTS,
    start=STARTS,
    takes=st.lists(st.tuples(WAITS, st.floats(0.0, 1.0)), min_size=1, max_size=80),
)
@settings(max_examples=tries(200))
def test_over_any_time_no_more_is_taken_than_burst_and_rate_allow(
    rate: float, burst_seconds: float, start: float, takes: Sequence[tuple[float, float]]
) -> None:
    burst = rate * burst_seconds
    bucket = Bucket(rate, burst)
    now = start
    taken: list[tuple[float, float]] = []
    for wait, share in takes:
        now += wait
        if bucket.take(share * burst, now) == 0.0:
            taken.append((now, share * burst))
    for first in range(len(taken)):
        total = 0.0
        for when, amount in taken[first:]:
            total += amount
            allowed = burst + rate * (when - taken[first][0])
            assert total <= allowed + rate * 2 * ROUNDING + 1e-9 * allowed


@given(
    rate=RATES,
    burst_seconds=BURSTS,
    start=STARTS,
    before=st.lists(st.tuples(WAITS, st.floats(0.0, 5.0)), max_size=20),
    share=st.floats(0.0, 1.0),
)
@settings(max_examples=tries(300))
def test_who_waits_as_long_as_it_was_told_is_let_in(
    rate: float, burst_seconds: float, start: float, before: Sequence[tuple[float, float]], share: float
) -> None:
    burst = rate * burst_seconds
    bucket = Bucket(rate, burst)
    now = start
    for wait, charge in before:
        now += wait
        bucket.charge(charge * burst, now)

    wait = bucket.take(share * burst, now)

    if wait:
        assert bucket.wait(share * burst, now) == wait
        assert bucket.take(share * burst, now + 0.99 * wait - 2 * ROUNDING) > 0.0
        assert bucket.take(share * burst, now + wait) == 0.0


@given(rate=RATES, burst_seconds=BURSTS, start=STARTS, charges=st.lists(st.floats(0.0, 3.0), max_size=20))
def test_debt_is_exactly_what_was_taken_too_much(
    rate: float, burst_seconds: float, start: float, charges: Sequence[float]
) -> None:
    burst = rate * burst_seconds
    bucket = Bucket(rate, burst)

    for charge in charges:
        bucket.charge(charge * burst, start)

    left = burst - sum(charges) * burst
    assert bucket.left(start) == pytest.approx(left, rel=1e-6, abs=rate * ROUNDING)
    if left < 0:
        assert bucket.wait(0.0, start - left / rate) == 0.0


def test_calls_of_a_model_share_a_bucket() -> None:
    limiter = RateLimiter("model", 1.0, None, None, 2.0)

    assert limiter.admit("m", "a", 10.0) is None
    assert limiter.admit("m", "b", 10.0) is None
    assert limiter.admit("m", "a", 10.0) == Denied(1.0, "requests")
    assert limiter.admit("other", "a", 10.0) is None


def test_calls_of_a_caller_share_a_bucket_for_each_model() -> None:
    limiter = RateLimiter("caller", 1.0, None, None, 1.0)

    assert limiter.admit("m", "a", 10.0) is None
    assert limiter.admit("m", "a", 10.0) == Denied(1.0, "requests")
    assert limiter.admit("m", "b", 10.0) is None
    assert limiter.admit("n", "a", 10.0) is None


def test_keys_of_model_and_caller_are_not_mixed_up() -> None:
    limiter = RateLimiter("caller", 1.0, None, None, 1.0)

    assert limiter.admit("a", "b", 10.0) is None
    assert limiter.admit("b", "a", 10.0) is None


def test_a_slow_rate_still_lets_one_call_in() -> None:
    limiter = RateLimiter("model", 0.1, None, None, 0.5)

    assert limiter.admit("m", "a", 10.0) is None
    denied = limiter.admit("m", "a", 10.0)

    assert denied is not None
    assert denied.retry_after == pytest.approx(10.0)
    assert limiter.admit("m", "a", 10.0 + denied.retry_after) is None


def test_bytes_are_charged_after_the_call_was_let_in() -> None:
    limiter = RateLimiter("model", None, 1000.0, None, 1.0)

    assert limiter.admit("m", "a", 10.0) is None
    limiter.charge("m", "a", 600, 1.0, 10.0)
    assert limiter.admit("m", "a", 10.0) is None
    limiter.charge("m", "a", 2400, 1.0, 10.0)
    denied = limiter.admit("m", "b", 10.0)

    assert denied is not None
    assert denied.what == "bytes"
    assert denied.retry_after == pytest.approx(2.0)
    assert limiter.admit("m", "b", 12.0) is None


def test_examples_are_charged_after_the_call_was_let_in() -> None:
    limiter = RateLimiter("caller", None, None, 10.0, 1.0)

    limiter.charge("m", "a", 1_000_000, 25, 10.0)

    denied = limiter.admit("m", "a", 10.0)
    assert denied is not None
    assert denied.what == "examples"
    assert denied.retry_after == pytest.approx(1.5)
    assert limiter.admit("m", "b", 10.0) is None


def test_a_denied_call_is_not_counted() -> None:
    limiter = RateLimiter("model", 1.0, 1000.0, None, 1.0)
    limiter.charge("m", "a", 3000, 1.0, 10.0)

    for _ in range(5):
        assert limiter.admit("m", "a", 10.0) is not None

    assert limiter.admit("m", "a", 12.0) is None


def test_the_longest_wait_is_told() -> None:
    limiter = RateLimiter("model", 0.5, 1000.0, 10.0, 1.0)
    assert limiter.admit("m", "a", 10.0) is None
    limiter.charge("m", "a", 2000, 15, 10.0)

    denied = limiter.admit("m", "a", 10.0)

    assert denied is not None
    assert denied.what == "requests"
    assert denied.retry_after == pytest.approx(2.0)


@given(
    requests=st.none() | st.floats(0.1, 1000.0),
    size=st.none() | st.floats(1.0, 1e6),
    examples=st.none() | st.floats(0.1, 1000.0),
    burst_seconds=st.floats(0.1, 100.0),
    calls=st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 1e6), st.floats(0.0, 100.0)), max_size=60),
)
@settings(max_examples=tries(200))
def test_retry_after_is_right(
    requests: float | None,
    size: float | None,
    examples: float | None,
    burst_seconds: float,
    calls: Sequence[tuple[float, float, float]],
) -> None:
    if requests is size is examples is None:
        return
    limiter = RateLimiter("model", requests, size, examples, burst_seconds)
    now = 1000.0
    for wait, taken, rows in calls:
        now += wait
        denied = limiter.admit("m", "a", now)
        if denied is not None:
            assert denied.retry_after > 0.0
            before = now + 0.99 * denied.retry_after - 2 * ROUNDING
            assert limiter.admit("m", "a", max(now, before)) is not None
            now += denied.retry_after
            assert limiter.admit("m", "a", now) is None
        limiter.charge("m", "a", taken, rows, now)


def test_keys_are_bounded() -> None:
    limiter = RateLimiter("caller", 1.0, None, None, 1000.0)

    for number in range(MAX_BUCKETS + 1000):
        limiter.admit("m", f"caller {number}", 10.0)

    assert len(limiter) == MAX_BUCKETS


def test_a_few_that_are_full_are_forgotten_at_a_time() -> None:
    limiter = RateLimiter("caller", 1.0, None, None, 1.0)
    for number in range(MAX_BUCKETS):
        limiter.admit("m", f"caller {number}", 10.0)

    limiter.admit("m", "another", 11.0)

    assert len(limiter) == MAX_BUCKETS - LOOKED_AT + 1


def test_full_buckets_are_forgotten_first() -> None:
    """A flood of callers that come once each does not make the limiter forget who is in debt."""
    limiter = RateLimiter("caller", 1.0, 1000.0, None, 1.0)
    limiter.charge("m", "greedy", 1e9, 0.0, 0.0)

    for number in range(5 * MAX_BUCKETS):
        limiter.admit("m", f"caller {number}", number * 0.001)

    assert len(limiter) <= MAX_BUCKETS
    assert limiter.admit("m", "greedy", 100.0) is not None


def test_where_none_is_full_the_one_nearest_to_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BUCKETS", 3)
    limiter = RateLimiter("caller", None, 10.0, None, 1.0)
    for caller, taken in (("a", 1000), ("b", 100), ("c", 500)):
        limiter.charge("m", caller, taken, 0.0, 0.0)

    assert limiter.admit("m", "d", 0.0) is None

    assert len(limiter) == 3
    assert limiter.admit("m", "a", 0.0) is not None
    assert limiter.admit("m", "c", 0.0) is not None
    assert limiter.admit("m", "b", 0.0) is None


@given(
    calls=st.lists(st.tuples(st.integers(0, 11), st.floats(0.0, 2.0), st.floats(0.0, 40.0)), min_size=10, max_size=200)
)
@settings(max_examples=tries(100))
def test_what_is_forgotten_full_would_not_have_been_denied(calls: Sequence[tuple[int, float, float]]) -> None:
    """Beside a limiter that forgets nothing: they differ only for those that were forgotten in debt, never to the
    disadvantage of the caller."""
    with pytest.MonkeyPatch.context() as patch:
        limiter, perfect = RateLimiter("caller", 2.0, 10.0, None, 2.0), RateLimiter("caller", 2.0, 10.0, None, 2.0)
        now = 0.0
        for caller, wait, taken in calls:
            now += wait
            patch.setattr(module, "MAX_BUCKETS", 6)
            ours = limiter.admit("m", str(caller), now)
            assert len(limiter) <= 6
            patch.setattr(module, "MAX_BUCKETS", 1000)
            theirs = perfect.admit("m", str(caller), now)
            assert not (ours is not None and theirs is None)
            if ours is None and theirs is None:
                limiter.charge("m", str(caller), taken, 0.0, now)
                perfect.charge("m", str(caller), taken, 0.0, now)
