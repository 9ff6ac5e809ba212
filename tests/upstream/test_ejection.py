"""Outlier detection: figures worked out by hand, the ceiling, and the way out and in again."""

from __future__ import annotations

from math import floor, nextafter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshproxy.config.servers import EjectionSettings
from meshproxy.upstream.ejection import LEAST_DEVIATION, Ejector, Record
from tests.thorough import tries

Records = dict[str, Record]


def records(**failures: int) -> Records:
    """Endpoints with so many failures out of a hundred calls."""
    made = {key: Record() for key in failures}
    feed(made, **failures)
    return made


def feed(endpoints: Records, **failures: int) -> None:
    for key, number in failures.items():
        endpoints[key].calls = 100
        endpoints[key].failures = number


def test_in_the_beginning() -> None:
    ejector = Ejector(EjectionSettings(), 100.0)
    assert ejector.due == 110.0
    assert ejector.judge({}, 100.0) == set()
    assert ejector.judge({}, 200.0) == set()


def test_the_outlier_of_three_is_out() -> None:
    ejector = Ejector(EjectionSettings(), 0.0)
    assert ejector.judge(records(a=0, b=0, c=100), 10.0) == {"c"}


def test_nobody_is_judged_before_the_interval_is_over() -> None:
    ejector = Ejector(EjectionSettings(), 0.0)
    endpoints = records(a=0, b=0, c=100)
    assert ejector.judge(endpoints, nextafter(10.0, 0)) == set()
    assert (endpoints["c"].calls, endpoints["c"].failures) == (100, 100)
    assert ejector.judge(endpoints, 10.0) == {"c"}


def test_every_interval_is_counted_by_itself() -> None:
    ejector = Ejector(EjectionSettings(base_time=100.0), 0.0)
    endpoints = records(a=0, b=0, c=5)
    assert ejector.judge(endpoints, 10.0) == set()
    assert all((record.calls, record.failures) == (0, 0) for record in endpoints.values())
    feed(endpoints, a=0, b=0, c=20)
    assert ejector.judge(endpoints, nextafter(20.0, 0)) == set()
    assert ejector.judge(endpoints, 20.0) == {"c"}
    assert all((record.calls, record.failures) == (0, 0) for record in endpoints.values())


def test_a_late_comparison_begins_an_interval() -> None:
    ejector = Ejector(EjectionSettings(), 0.0)
    ejector.judge(records(a=0, b=0, c=0), 17.0)
    assert ejector.due == 27.0


# The others of `c`: success rates 0.9, 0.7: mean 0.8, deviation 0.1, so that 1.9 of them end at 0.61.
# The others of `b`: 0.9, 0.6: mean 0.75, deviation 0.15, end 0.465: it stays.
# The others of `d`: 1.0, 0.9, 0.8: mean 0.9, variance (0.01 + 0 + 0.01) / 3, deviation 0.08165, end 0.74487.
# The others of `e`: 1.0, 1.0: deviation 0, which counts as 0.05: end 0.905.
@pytest.mark.parametrize(
    ("failures", "out"),
    [
        ({"a": 10, "b": 30, "c": 38}, set()),
        ({"a": 10, "b": 30, "c": 40}, {"c"}),
        ({"a": 0, "b": 10, "c": 20, "d": 25}, set()),
        ({"a": 0, "b": 10, "c": 20, "d": 26}, {"d"}),
        ({"a": 0, "b": 0, "e": 9}, set()),
        ({"a": 0, "b": 0, "e": 10}, {"e"}),
        ({"a": 0, "b": 0, "c": 0}, set()),
        ({"a": 100, "b": 100, "c": 100}, set()),
        ({"a": 0, "b": 100, "c": 100}, set()),  # better than the others is no reason
    ],
)
def test_figures_worked_out_by_hand(failures: dict[str, int], out: set[str]) -> None:
    assert Ejector(EjectionSettings(), 0.0).judge(records(**failures), 10.0) == out


def test_more_deviations_take_more() -> None:
    failures = {"a": 10, "b": 30, "c": 45}  # 0.55 is 2.5 deviations of 0.1 below 0.8
    assert Ejector(EjectionSettings(deviations=2.4), 0.0).judge(records(**failures), 10.0) == {"c"}
    assert Ejector(EjectionSettings(deviations=2.6), 0.0).judge(records(**failures), 10.0) == set()


def test_the_least_deviation_is_what_it_says() -> None:
    assert pytest.approx((0.85 * 0.15 / 50) ** 0.5, abs=0.001) == LEAST_DEVIATION


def test_among_few_there_are_no_outliers() -> None:
    failures = {"a": 0, "b": 0, "c": 0, "d": 100}
    assert Ejector(EjectionSettings(min_endpoints=5), 0.0).judge(records(**failures), 10.0) == set()
    assert Ejector(EjectionSettings(min_endpoints=4), 0.0).judge(records(**failures), 10.0) == {"d"}


def test_those_with_few_calls_are_not_judged_and_not_compared_with() -> None:
    for calls, out in ((49, set()), (50, {"c"})):
        endpoints = records(a=0, b=0, c=0)
        endpoints["c"].calls = endpoints["c"].failures = calls
        assert Ejector(EjectionSettings(min_endpoints=2), 0.0).judge(endpoints, 10.0) == out
    endpoints = records(a=0, b=0, c=100)
    endpoints["a"].calls = 49  # leaves two to be judged
    assert Ejector(EjectionSettings(), 0.0).judge(endpoints, 10.0) == set()


@pytest.mark.parametrize("percent", [34.0, 1.0, 100.0])
def test_never_the_last_one(percent: float) -> None:
    one = EjectionSettings(min_endpoints=1, max_percent=percent)
    assert Ejector(one, 0.0).judge(records(a=100), 10.0) == set()
    ejector = Ejector(one, 0.0)
    endpoints = records(a=0, b=100)
    assert ejector.judge(endpoints, 10.0) == {"b"}
    feed(endpoints, a=100)
    assert ejector.judge(endpoints, nextafter(20.0, 0)) == {"b"}


@pytest.mark.parametrize(
    ("endpoints", "percent", "most"),
    [(3, 34.0, 1), (4, 34.0, 1), (6, 34.0, 2), (10, 29.0, 2), (10, 30.0, 3), (9, 100.0, 8), (3, 10.0, 1), (9, 0.0, 0)],
)
def test_the_ceiling(endpoints: int, percent: float, most: int) -> None:
    """Failing ones are added until no more may be out; the deviations are chosen so that each of them is an outlier."""
    settings = EjectionSettings(base_time=1000.0, max_time=1000.0, max_percent=percent, min_endpoints=1, deviations=0.1)
    ejector = Ejector(settings, 0.0)
    keys = [f"e{number}" for number in range(endpoints)]
    made = records(**dict.fromkeys(keys, 0))
    out: set[str] = set()
    for turn, bad in enumerate(keys, start=1):
        feed(made, **dict.fromkeys(keys, 0) | {bad: 100})
        out = ejector.judge(made, turn * 10.0)
        assert len(out) == min(turn, most)
    assert out == set(keys[:most])


def test_the_worst_ones_go_first() -> None:
    settings = EjectionSettings(max_percent=20.0, deviations=1.0)
    failures = {"a": 50, "b": 90, "c": 70} | dict.fromkeys("defghijkl", 0)
    assert Ejector(settings, 0.0).judge(records(**failures), 10.0) == {"b", "c"}  # two of twelve


def test_out_and_in_again() -> None:
    ejector = Ejector(EjectionSettings(base_time=7.0), 0.0)
    endpoints = records(a=0, b=0, c=100)
    assert ejector.judge(endpoints, 10.0) == {"c"}
    assert ejector.due == 17.0
    endpoints["c"].calls = endpoints["c"].failures = 60  # began before, ended while it was out
    assert ejector.judge(endpoints, nextafter(17.0, 0)) == {"c"}
    assert ejector.judge(endpoints, 17.0) == set()
    assert (endpoints["c"].calls, endpoints["c"].failures) == (0, 0)
    assert ejector.due == 20.0


def test_who_is_out_is_not_compared() -> None:
    ejector = Ejector(EjectionSettings(base_time=100.0, max_percent=100.0), 0.0)
    endpoints = records(a=0, b=0, c=0, d=100)
    assert ejector.judge(endpoints, 10.0) == {"d"}
    feed(endpoints, a=0, b=10, c=14, d=0)  # the others of `c` end at 0.855; with `d` they would at 0.872
    assert ejector.judge(endpoints, 20.0) == {"d"}
    feed(endpoints, a=0, b=50, d=0)  # two are left to be judged, and `d` is not the third
    assert ejector.judge(endpoints, 30.0) == {"d"}


def lengths(ejector: Ejector, endpoints: Records, times: int, start: float = 0.0) -> list[float]:
    """How long `c` is out, if it fails whenever it is in. Called each second, as the cluster does."""
    found: list[float] = []
    since: float | None = None
    now = start
    while len(found) < times:
        now += 1.0
        feed(endpoints, a=0, b=0, c=100)
        is_out = "c" in ejector.judge(endpoints, now)
        if is_out and since is None:
            since = now
        elif not is_out and since is not None:
            found.append(now - since)
            since = None
    return found


def test_it_is_out_longer_each_time_up_to_the_most() -> None:
    ejector = Ejector(EjectionSettings(max_time=45.0), 0.0)
    assert lengths(ejector, records(a=0, b=0, c=0), 6) == [10.0, 20.0, 30.0, 40.0, 45.0, 45.0]


def test_each_whole_interval_that_it_was_in_makes_the_next_time_shorter() -> None:
    ejector = Ejector(EjectionSettings(), 0.0)
    endpoints = records(a=0, b=0, c=0)
    assert lengths(ejector, endpoints, 3) == [10.0, 20.0, 30.0]
    now = ejector.due - 10.0  # it came back at a comparison
    for turn in (1, 2):
        feed(endpoints, a=0, b=0, c=0)
        assert ejector.judge(endpoints, now + turn * 10.0) == set()
    assert lengths(ejector, endpoints, 1, start=now + 20.0) == [20.0]  # 3 - 2 + 1 times


def test_a_whole_interval_counts_though_the_comparison_before_it_was_late() -> None:
    ejector = Ejector(EjectionSettings(base_time=13.0), 0.0)
    endpoints = records(a=0, b=0, c=100)
    assert ejector.judge(endpoints, 10.0) == {"c"}
    assert ejector.judge(endpoints, 23.0) == set()
    feed(endpoints, a=0, b=0, c=0)
    assert ejector.judge(endpoints, 33.0) == set()  # compared at 10, 23: in from 23 to 33
    feed(endpoints, a=0, b=0, c=100)
    assert ejector.judge(endpoints, 43.0) == {"c"}
    assert ejector.judge(endpoints, 55.0) == {"c"}
    assert ejector.judge(endpoints, 56.0) == set()  # 13 s again: forgiven at 33


def test_a_part_of_an_interval_makes_nothing_shorter() -> None:
    ejector = Ejector(EjectionSettings(base_time=5.0), 0.0)
    endpoints = records(a=0, b=0, c=100)
    assert ejector.judge(endpoints, 10.0) == {"c"}
    assert ejector.judge(endpoints, 15.0) == set()
    feed(endpoints, a=0, b=0, c=0)
    assert ejector.judge(endpoints, 20.0) == set()  # in since 15 only: nothing forgiven
    feed(endpoints, a=0, b=0, c=100)
    assert ejector.judge(endpoints, 30.0) == {"c"}
    assert ejector.due == 40.0
    assert ejector.judge(endpoints, 39.0) == {"c"}  # the second time: ten seconds
    assert ejector.judge(endpoints, 40.0) == set()


def test_who_goes_is_forgotten() -> None:
    ejector = Ejector(EjectionSettings(), 0.0)
    endpoints = records(a=0, b=0, c=100, d=0)
    assert ejector.judge(endpoints, 10.0) == {"c"}
    del endpoints["c"]
    assert ejector.judge(endpoints, 11.0) == set()
    endpoints["c"] = Record()
    assert ejector.judge(endpoints, 12.0) == set()
    feed(endpoints, a=0, b=0, c=100, d=0)
    assert ejector.judge(endpoints, 20.0) == {"c"}
    assert ejector.judge(endpoints, 30.0) == set()  # the first time of a new one


def test_who_goes_and_comes_again_at_once_can_be_forgotten() -> None:
    ejector = Ejector(EjectionSettings(), 0.0)
    endpoints = records(a=0, b=0, c=100)
    assert ejector.judge(endpoints, 10.0) == {"c"}
    ejector.forget("c")
    ejector.forget("nobody")
    assert ejector.judge(endpoints, 11.0) == set()


def test_when_others_go_those_come_back_whose_time_is_over_first() -> None:
    settings = EjectionSettings(max_percent=50.0, base_time=100.0, max_time=1000.0)
    ejector = Ejector(settings, 0.0)
    endpoints = records(**dict.fromkeys("abcdef", 0))
    for now, bad in ((10.0, "a"), (20.0, "b"), (30.0, "c")):
        feed(endpoints, **dict.fromkeys("abcdef", 0) | {bad: 100})
        ejector.judge(endpoints, now)
    assert ejector.judge(endpoints, 31.0) == {"a", "b", "c"}
    del endpoints["f"]
    assert ejector.judge(endpoints, 32.0) == {"b", "c"}
    del endpoints["e"], endpoints["d"]
    assert ejector.judge(endpoints, 33.0) == {"c"}
    del endpoints["a"], endpoints["b"]
    assert ejector.judge(endpoints, 34.0) == set()


def test_who_came_back_for_want_of_others_was_in_from_then_on() -> None:
    ejector = Ejector(EjectionSettings(base_time=100.0), 0.0)
    assert ejector.judge(records(a=0, b=0, c=100), 10.0) == {"c"}
    assert ejector.judge(records(c=0), 12.0) == set()
    for now in (20.0, 30.0):
        assert ejector.judge(records(a=0, b=0, c=0), now) == set()
    assert ejector.judge(records(a=0, b=0, c=100), 40.0) == {"c"}
    assert ejector.judge(records(a=0, b=0, c=0), nextafter(140.0, 0)) == {"c"}
    assert ejector.judge(records(a=0, b=0, c=0), 140.0) == set()  # once, not twice 100 s


@settings(max_examples=tries(200))
@given(
    counts=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=12),
    min_endpoints=st.integers(1, 4),
    deviations=st.floats(0.1, 10),
    percent=st.floats(0, 100),
)
def test_by_the_book(counts: list[tuple[int, int]], min_endpoints: int, deviations: float, percent: float) -> None:
    """The definition, written down the long way."""
    made = {f"e{number}": Record() for number in range(len(counts))}
    for record, (calls, failures) in zip(made.values(), counts, strict=True):
        record.calls, record.failures = calls, min(calls, failures)
    rates = {key: 1 - record.failures / record.calls for key, record in made.items() if record.calls >= 50}
    outliers: set[str] = set()
    doubtful: set[str] = set()
    if len(rates) >= max(min_endpoints, 2):
        for key, rate in rates.items():
            others = [other for name, other in rates.items() if name != key]
            mean = sum(others) / len(others)
            deviation = (sum((other - mean) ** 2 for other in others) / len(others)) ** 0.5
            end = mean - deviations * max(deviation, 0.05)
            if abs(rate - end) < 1e-6:
                doubtful.add(key)
            elif rate < end:
                outliers.add(key)
    most = 0 if percent == 0 else max(0, min(max(1, floor(len(made) * percent / 100)), len(made) - 1))
    ejector = Ejector(EjectionSettings(deviations=deviations, min_endpoints=min_endpoints, max_percent=percent), 0.0)
    out = ejector.judge(made, 10.0)
    assert out <= outliers | doubtful
    assert len(out) <= most
    if len(outliers) <= most and not doubtful:
        assert out == outliers
    elif len(outliers) >= most:
        assert len(out) == most
    left = (outliers - doubtful) - out
    assert not out or not left or max(rates[key] for key in out) <= min(rates[key] for key in left)


class EjectorMachine(RuleBasedStateMachine):
    """Endpoints come, go and fail; judged at any time."""

    @initialize(percent=st.sampled_from([0.0, 10.0, 34.0, 50.0, 100.0]), min_endpoints=st.integers(1, 4))
    def begin(self, percent: float, min_endpoints: int) -> None:
        self.settings = EjectionSettings(
            max_percent=percent, min_endpoints=min_endpoints, deviations=0.5, base_time=8.0, max_time=30.0
        )
        self.now = 0.0
        self.ejector = Ejector(self.settings, 0.0)
        self.endpoints: Records = {}
        self.out: dict[str, float] = {}  # since when
        self.made = 0
        self.compared_at = 0.0

    @rule(number=st.integers(1, 5))
    def come(self, number: int) -> None:
        for _ in range(number):
            self.made += 1
            self.endpoints[f"e{self.made}"] = Record()
        self.judge()

    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        if self.endpoints:
            key = data.draw(st.sampled_from(sorted(self.endpoints)))
            del self.endpoints[key]
            self.out.pop(key, None)
        self.judge()

    @rule(rates=st.lists(st.sampled_from([0, 0, 0, 10, 50, 100]), min_size=1, max_size=10))
    def calls(self, rates: list[int]) -> None:
        for number, record in enumerate(self.endpoints.values()):
            record.calls += 100
            record.failures += rates[number % len(rates)]

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 10.0, 40.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        self.judge()

    @rule()
    def when_it_is_due(self) -> None:
        self.now = max(self.now, self.ejector.due)
        self.judge()

    def judge(self) -> None:
        out = self.ejector.judge(self.endpoints, self.now)
        assert out <= set(self.endpoints)
        is_compared = self.now >= self.compared_at + 10.0
        if is_compared:
            self.compared_at = self.now
        assert is_compared or out <= set(self.out)  # nobody goes out between two comparisons
        self.out = {key: self.out.get(key, self.now) for key in out}
        assert self.ejector.judge(self.endpoints, self.now) == out  # to ask again changes nothing

    @invariant()
    def never_too_many(self) -> None:
        number, percent = len(self.endpoints), self.settings.max_percent
        assert len(self.out) <= (max(1, floor(number * percent / 100)) if percent else 0)
        assert len(self.out) < number or not number

    @invariant()
    def nobody_is_out_for_ever(self) -> None:
        assert all(self.now - since < self.settings.max_time for since in self.out.values())

    @invariant()
    def something_is_always_due(self) -> None:
        assert self.now < self.ejector.due <= self.now + 10.0


TestEjectorMachine = EjectorMachine.TestCase
TestEjectorMachine.settings = settings(max_examples=tries(100), stateful_step_count=50)
