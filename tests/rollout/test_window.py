"""Counts of an arm: they add up, and each failure is somebody's."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.rollout.window import (
    BROKEN,
    CLASS_BINS,
    GROWTH,
    ArmWindow,
    Blame,
    blame,
    bucket,
    bucket_value,
    class_bin,
    grpc_kind,
    rest_kind,
    score_bin,
)
from tests.thorough import tries

counts = st.integers(0, 1_000)
histograms = st.dictionaries(st.integers(0, 900), st.integers(1, 50), max_size=5)
windows = st.builds(
    ArmWindow,
    calls=counts,
    failures=st.dictionaries(st.sampled_from(["grpc 13", "http 500", "http 400", BROKEN]), counts),
    latency=histograms,
    examples=counts,
    latency_per_example=histograms,
    answers=counts,
    nan_answers=counts,
    classes=histograms,
    scores=histograms,
    sizes=histograms,
    shadows=counts,
    disagreements=counts,
)


@settings(max_examples=15)
@given(windows, windows, windows)
def test_windows_add_up_in_any_order(first: ArmWindow, second: ArmWindow, third: ArmWindow) -> None:
    assert first + second == second + first
    assert (first + second) + third == first + (second + third)
    assert first + ArmWindow() == first
    assert msgspec.json.decode(msgspec.json.encode(first), type=ArmWindow) == first


def test_adding_leaves_the_parts_alone() -> None:
    first = ArmWindow(calls=1, latency={3: 1})
    assert (first + first).latency == {3: 2}
    assert first == ArmWindow(calls=1, latency={3: 1})


@given(st.floats(1e-6, 1e6), st.floats(1.0, 1.5))
@settings(max_examples=tries(50))
def test_buckets_keep_the_order_and_two_per_cent(value: float, factor: float) -> None:
    assert bucket(value) <= bucket(value * factor)
    assert abs(bucket_value(bucket(value)) / value - 1) <= GROWTH - 1


def test_no_time_at_all_has_a_bucket() -> None:
    assert [bucket(0.0), bucket(-1.0)] == [0, 0]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=tries(100))
def test_bins_of_scores_keep_the_order(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert score_bin(low) <= score_bin(high)
    assert score_bin(-low) == -score_bin(low)


def test_bins_tell_scores_apart() -> None:
    assert len({score_bin(score) for score in (0.0, 0.01, 0.02, 0.5, 0.55, 0.9, 0.99, 1.5, -0.5, 300.0)}) == 10


def test_classes_are_bounded() -> None:
    assert {class_bin(label) for label in range(1_000)} == set(range(CLASS_BINS))


@pytest.mark.parametrize(
    ("kind", "whose"),
    [
        (grpc_kind(13), Blame.ARM),
        (grpc_kind(5), Blame.ARM),
        (grpc_kind(8), Blame.ARM),
        (grpc_kind(3), Blame.INPUT),
        (grpc_kind(16), Blame.CALLER),
        (rest_kind(500), Blame.ARM),
        (rest_kind(404), Blame.ARM),
        (rest_kind(429), Blame.ARM),
        (rest_kind(400), Blame.INPUT),
        (rest_kind(413), Blame.INPUT),
        (rest_kind(403), Blame.CALLER),
        (BROKEN, Blame.ARM),
        ("something new", Blame.ARM),
    ],
)
def test_each_failure_is_somebodys(kind: str, whose: Blame) -> None:
    assert blame(kind) is whose
    assert ArmWindow(failures={kind: 3}).failed(whose) == 3
