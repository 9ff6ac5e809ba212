"""When a call is tried again, and how many of those there may be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config.routes import IDEMPOTENT_VERBS, Retries
from meshproxy.inference.call import Verb
from meshproxy.routing.failure import Failure
from meshproxy.routing.retry import INBOUND_RETRIES, OUTBOUND_RETRIES, RetryBudget, RetryRule, Skip
from tests.thorough import tries

UNSENT = [failure for failure in Failure if failure.is_unsent]


@pytest.mark.parametrize("verb", [*Verb, None])
@pytest.mark.parametrize("failure", Failure)
def test_outbound_calls_by_default(failure: Failure, verb: Verb | None) -> None:
    may_be_repeated = verb is not None and verb.value in IDEMPOTENT_VERBS
    if failure in (Failure.TIMEOUT, Failure.ERROR, Failure.OVERLOADED, Failure.STATUS):
        expected = Skip.REASON
    elif failure in UNSENT or may_be_repeated:
        expected = None
    else:
        expected = Skip.VERB
    assert OUTBOUND_RETRIES.skip(failure, verb, 1) is expected
    assert OUTBOUND_RETRIES.skip(failure, verb, 2) is expected
    assert OUTBOUND_RETRIES.skip(failure, verb, 3) is (expected or Skip.ATTEMPTS)


@pytest.mark.parametrize("failure", Failure)
def test_inbound_calls_by_default(failure: Failure) -> None:
    expected = None if failure in UNSENT else Skip.REASON
    for verb in (*Verb, None):
        assert INBOUND_RETRIES.skip(failure, verb, 1) is expected
        assert INBOUND_RETRIES.skip(failure, verb, 2) is (expected or Skip.ATTEMPTS)
    assert INBOUND_RETRIES.replay_bytes == 65_536
    assert INBOUND_RETRIES.hedge_after is None


def test_what_was_never_sent_is_tried_again_only_if_the_rule_says_so() -> None:
    rule = RetryRule(Retries(reasons=("reset",), verbs=("predict",)))
    assert rule.skip(Failure.CONNECT, Verb.PREDICT, 1) is Skip.REASON
    assert rule.skip(Failure.RESET, Verb.PREDICT, 1) is None
    assert rule.skip(Failure.RESET, Verb.STATUS, 1) is Skip.VERB
    assert rule.skip(Failure.RESET, None, 1) is Skip.VERB


def test_administrators_calls_are_not_made_twice_by_default() -> None:
    assert not any(verb.is_admin for verb in OUTBOUND_RETRIES.verbs)


def test_one_attempt_is_no_retry() -> None:
    assert RetryRule(Retries(attempts=1)).skip(Failure.CONNECT, Verb.PREDICT, 1) is Skip.ATTEMPTS


def test_the_fields_of_a_rule() -> None:
    rule = RetryRule(Retries(attempts=5, backoff=0.1, backoff_max=0.3, replay_bytes=7, hedge_after=0.05))
    assert (rule.attempts, rule.backoff, rule.backoff_max, rule.replay_bytes, rule.hedge_after) == (
        5, 0.1, 0.3, 7, 0.05,
    )  # fmt: skip


def test_the_second_try_goes_out_at_once_and_bounds_double() -> None:
    rule = RetryRule(Retries(backoff=0.1, backoff_max=0.5))
    assert [rule.wait(tries, lambda: 1.0) for tries in (1, 2, 3, 4, 5, 9)] == [0.0, 0.1, 0.2, 0.4, 0.5, 0.5]
    assert rule.wait(4, lambda: 0.25) == 0.1


@given(st.floats(0.001, 1), st.floats(1, 10), st.integers(1, 10), st.floats(0, 1, exclude_max=True))
def test_no_wait_is_longer_than_its_bound(backoff: float, most: float, tries: int, drawn: float) -> None:
    rule = RetryRule(Retries(backoff=backoff, backoff_max=most))
    wait = rule.wait(tries, lambda: drawn)
    assert 0 <= wait <= most
    assert wait == 0.0 if tries == 1 else wait <= backoff * 2 ** (tries - 2)


def test_words_of_a_metric() -> None:
    assert {skip.value for skip in Skip} == {
        "reason", "verb", "attempts", "budget", "body", "pushback", "answered", "deadline", "no-endpoint",
    }  # fmt: skip


# Budget

STEPS = st.lists(
    st.tuples(st.sampled_from(["call", "retry"]), st.integers(1, 40), st.floats(0, 3) | st.floats(0, 30)), max_size=40
)


@settings(max_examples=tries(200))
@given(
    steps=STEPS,
    ratio=st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]),
    minimum=st.sampled_from([0.1, 0.5, 1.0, 3.0, 10.0]),
    begin=st.floats(0, 1e6),
)
def test_never_more_retries_than_calls_and_seconds_allow(
    steps: list[tuple[str, int, float]], ratio: float, minimum: float, begin: float
) -> None:
    """In any stretch of time: `ratio` x calls (of it and the ten seconds before), `minimum` x seconds, and one
    second's worth at once."""
    budget = RetryBudget(ratio, minimum)
    calls: list[float] = []
    retries: list[float] = []
    now = begin
    for what, count, wait in steps:
        now += wait
        for _ in range(count):
            if what == "call":
                budget.deposit(now)
                calls.append(now)
            elif budget.withdraw(now):
                retries.append(now)
    for first, since in enumerate(retries):
        for last in range(first, len(retries)):
            until = retries[last]
            made = last - first + 1
            allowed = ratio * sum(since - 10 < at <= until for at in calls)
            assert made <= allowed + minimum * (until - since) + max(1.0, minimum) + 1e-6


@settings(max_examples=tries(200))
@given(steps=STEPS, ratio=st.sampled_from([0.1, 0.5]), begin=st.floats(0, 1e6))
def test_what_calls_allow_is_kept_in_any_ten_seconds(
    steps: list[tuple[str, int, float]], ratio: float, begin: float
) -> None:
    """With next to no minimum the ratio is all there is: one more comes from the minimum."""
    budget = RetryBudget(ratio, 1e-9)
    calls: list[float] = []
    retries: list[float] = []
    now = begin
    for what, count, wait in steps:
        now += wait
        for _ in range(count):
            if what == "call":
                budget.deposit(now)
                calls.append(now)
            elif budget.withdraw(now):
                retries.append(now)
                window = [at for at in retries if at > now - 10]
                assert len(window) <= ratio * sum(at > now - 10 for at in calls) + 1 + 1e-6


def test_a_few_are_always_allowed() -> None:
    budget = RetryBudget(0.0, 10.0)
    for second in range(100, 130):
        assert [budget.withdraw(float(second)) for _ in range(11)] == [True] * 10 + [False]


def test_less_than_one_a_second() -> None:
    budget = RetryBudget(0.0, 0.5)
    allowed = [second for second in range(100, 110) if budget.withdraw(float(second))]
    assert allowed == [100, 102, 104, 106, 108]


def test_a_fifth_of_all_calls() -> None:
    """Steady load: every call fails and asks for a retry; a fifth gets one, and the minimum beside."""
    budget = RetryBudget(0.2, 1.0)
    granted = 0
    for step in range(10_000):  # 100 calls a second
        now = 50 + step / 100
        budget.deposit(now)
        granted += budget.withdraw(now)
    assert 1_900 <= granted <= 2_000 + 101


def test_what_calls_left_is_gone_after_ten_seconds() -> None:
    budget = RetryBudget(1.0, 0.1)
    for _ in range(50):
        budget.deposit(100.5)
    assert budget.withdraw(100.5)
    assert budget.withdraw(109.9)
    assert budget.withdraw(109.9)
    assert budget.withdraw(112.0)  # the minimum, which has come back
    assert not budget.withdraw(112.0)


def test_a_long_time_without_anything() -> None:
    budget = RetryBudget(1.0, 1.0)
    budget.deposit(5.0)
    assert [budget.withdraw(1e9) for _ in range(2)] == [True, False]
