from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.devtools.load.figures import (
    Noisy,
    Ratio,
    has_kept_rate,
    percentiles,
    ratio,
    spread,
    verdict,
    width,
)


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(number) for number in range(10_000, 0, -1)]
    assert percentiles(values) == {50.0: 5_000, 90.0: 9_000, 99.0: 9_900, 99.9: 9_990}


def test_a_percentile_with_fewer_than_ten_values_beyond_is_left_out() -> None:
    values = [1.0] * 999
    assert set(percentiles(values)) == {50.0, 90.0}
    assert set(percentiles([*values, 1.0])) == {50.0, 90.0, 99.0}


def test_no_values_have_no_percentiles() -> None:
    assert percentiles([]) == {}


@given(st.lists(st.floats(0, 10), min_size=20, max_size=300), st.sampled_from([50.0, 90.0]))
def test_a_percentile_is_a_value_that_this_share_is_not_above(values: list[float], share: float) -> None:
    found = percentiles(values, (share,))
    if share in found:
        assert found[share] in values
        assert sum(value <= found[share] for value in values) >= len(values) * share / 100


@pytest.mark.parametrize(("achieved", "is_kept"), [(500.0, True), (495.0, True), (494.0, False), (506.0, False)])
def test_a_rate_is_kept_within_one_percent(achieved: float, is_kept: bool) -> None:
    assert has_kept_rate(500.0, achieved) is is_kept


def test_a_spread_has_median_and_range() -> None:
    found = spread([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high, found.rounds) == (2.0, 1.0, 3.0, 3)


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [([2.0], 0.0), ([1.0, 2.0, 3.0], 1.0), ([1.0, 2.0, 2.0, 9.0], 4.0), ([1.0, 2.0, 2.0, 2.0, 9.0], 0.0)],
)
def test_of_five_rounds_or_more_one_may_lie_anywhere_at_each_end(rounds: list[float], expected: float) -> None:
    assert width(rounds) == expected


def test_no_rounds_have_no_spread() -> None:
    with pytest.raises(ValueError, match="no round"):
        spread([])


def test_a_ratio_is_that_of_each_round() -> None:
    # The machine slowed down for both: the rounds' own ratios do not see it.
    found = ratio([50.0, 55.0, 60.0], [100.0, 110.0, 120.0])
    assert found == Ratio(0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        ([1.0, 1.0], [1.0, 1.0], "2 of the 3 rounds"),
        ([1.0, 1.0, 1.0], [1.0, 1.0], "3 rounds against 2"),
        ([1.0, 1.0, 2.0], [1.0, 1.0, 1.0], "this side's rounds differ by 100%"),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 0.5], "the other side's rounds differ by 50%"),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 0.0], "a round measured nothing"),
    ],
)
def test_a_noisy_ratio_is_refused_with_the_reason(ours: list[float], theirs: list[float], reason: str) -> None:
    found = ratio(ours, theirs)
    assert isinstance(found, Noisy)
    assert reason in found.reason


@given(st.lists(st.floats(90, 110), min_size=3, max_size=9))
def test_a_ratio_to_oneself_is_one(values: list[float]) -> None:
    assert ratio(values, values) == Ratio(1.0, 1.0, 1.0)


@pytest.mark.parametrize(("p99", "word"), [(0.0009, "below"), (0.002, "within"), (0.004, "above")])
def test_a_verdict_holds_the_hop_against_what_is_usual(p99: float, word: str) -> None:
    assert f"{word} the 1 to 3 ms" in verdict(0.0002, p99)
