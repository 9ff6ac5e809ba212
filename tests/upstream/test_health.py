from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshproxy.config import servers
from meshproxy.upstream.health import CheckSettings, Health
from tests.thorough import tries

AB = CheckSettings(("a", "b"), unhealthy_after=2, healthy_after=1)


def test_what_is_unknown_takes_calls() -> None:
    health = Health(AB)
    assert health.is_healthy
    assert health.allows("a")
    assert health.allows("never heard of")
    assert health.since("a") is None


def test_it_is_known_from_the_first_good_check_or_when_it_is_out() -> None:
    health = Health(AB)
    assert not health.is_known("a")
    health.record(None, True, 1.0)
    assert health.is_known("never heard of")
    assert not health.is_known("a")
    health.record("a", False, 1.0)
    assert not health.is_known("a")
    health.record("a", False, 2.0)
    assert health.is_known("a")
    assert not health.is_known("b")
    health.record("b", True, 2.0)
    assert health.is_known("b")


def test_so_many_bad_checks_in_a_row_take_a_model_out_and_leave_the_others() -> None:
    health = Health(AB)
    assert not health.record("a", False, 1.0)
    assert health.allows("a")
    assert health.record("a", False, 2.0)
    assert not health.record("a", False, 3.0)
    assert not health.allows("a")
    assert health.allows("b")
    assert health.is_healthy


def test_a_good_check_between_bad_ones_starts_the_count_again() -> None:
    health = Health(AB)
    for now, is_good in enumerate((False, True, False, True, False)):
        assert not health.record("a", is_good, float(now))
    assert health.allows("a")


def test_so_many_good_checks_in_a_row_bring_it_back() -> None:
    health = Health(CheckSettings(("a",), unhealthy_after=1, healthy_after=3))
    assert health.record("a", False, 1.0)
    assert not health.record("a", True, 2.0)
    assert not health.record("a", True, 3.0)
    assert not health.record("a", False, 4.0)
    assert not health.record("a", True, 5.0)
    assert not health.record("a", True, 6.0)
    assert not health.allows("a")
    assert health.since("a") is None
    assert health.record("a", True, 7.0)
    assert health.allows("a")
    assert health.since("a") == 7.0


def test_a_new_endpoint_takes_nothing_until_its_model_is_available() -> None:
    health = Health(CheckSettings(("a", "b"), healthy_after=3), begins_unhealthy=True)
    assert not health.allows("a")
    assert not health.allows("never heard of")
    assert not health.record("a", False, 1.0)
    assert health.record(None, True, 2.0)  # it can be reached, its models are loading
    assert health.allows("never heard of")
    assert not health.allows("a")
    assert health.since("a") is None
    assert health.record("a", True, 3.0)  # the first is enough
    assert health.allows("a")
    assert not health.allows("b")
    assert health.since("a") == 3.0
    assert health.since("never heard of") == 2.0


def test_what_is_known_to_be_out_needs_every_good_check() -> None:
    health = Health(CheckSettings(("a",), unhealthy_after=1, healthy_after=2), begins_unhealthy=True)
    health.record(None, True, 1.0)
    health.record("a", True, 1.0)
    assert health.record("a", False, 2.0)
    assert not health.record("a", True, 3.0)
    assert health.record("a", True, 4.0)


def test_an_endpoint_that_is_out_takes_all_its_models_with_it() -> None:
    health = Health(AB)
    health.record("a", True, 0.0)
    assert not health.record(None, False, 1.0)
    assert health.record(None, False, 2.0)
    assert not health.is_healthy
    assert not health.allows("never heard of")
    assert health.record(None, True, 3.0)  # it has started again
    assert not health.allows("a")  # and loads its models
    assert health.record("a", True, 4.0)
    assert health.allows("a")
    assert not health.allows("b")
    assert health.since("a") == 4.0


def test_a_restart_between_two_checks_is_not_forgiven_to_the_models() -> None:
    health = Health(AB)
    health.record(None, True, 0.0)
    health.record("a", True, 0.0)
    assert not health.record(None, False, 1.0)
    assert not health.record(None, True, 2.0)
    assert health.record("a", False, 2.0)
    assert health.is_healthy
    assert not health.allows("a")


def test_since_is_the_later_of_endpoint_and_model() -> None:
    health = Health(CheckSettings(("a",), unhealthy_after=1), begins_unhealthy=True)
    health.record("a", True, 1.0)
    assert health.since("a") is None
    health.record(None, True, 2.0)
    assert health.since("a") == 2.0


def test_models_that_nobody_asked_for_are_ignored() -> None:
    health = Health(CheckSettings(("a",), unhealthy_after=1))
    assert not health.record("x", False, 1.0)
    assert health.allows("x")


def test_other_models_are_asked_for_after_a_reload() -> None:
    health = Health(CheckSettings(("a", "b"), unhealthy_after=1))
    health.record("a", False, 1.0)
    health.record("b", False, 1.0)
    health.watch(("b", "c"))
    assert health.settings.models == ("b", "c")
    assert health.allows("a")
    assert not health.allows("b")
    assert health.allows("c")
    assert health.record("c", False, 2.0)
    assert not health.record("a", False, 2.0)
    assert health.record("b", True, 3.0)


class AsWritten(RuleBasedStateMachine):
    """Against a whole history that is read from its beginning each time, by the rules of the module's docstring."""

    @initialize(
        begins_unhealthy=st.booleans(),
        unhealthy_after=st.integers(1, 3),
        healthy_after=st.integers(1, 3),
        models=st.sampled_from([(), ("a",), ("a", "b")]),
    )
    def begin(self, begins_unhealthy: bool, unhealthy_after: int, healthy_after: int, models: tuple[str, ...]) -> None:
        self.is_new = begins_unhealthy
        self.checked = CheckSettings(models, unhealthy_after, healthy_after)
        self.health = Health(self.checked, begins_unhealthy=begins_unhealthy)
        self.now = 100.0
        self.history: dict[str | None, list[tuple[bool, float]]] = {name: [] for name in (None, *models)}

    def verdict(self, name: str | None) -> tuple[bool, float | None]:
        is_in, since = not self.is_new, None
        history = [is_good for is_good, _ in self.history[name]]
        for i, (is_good, now) in enumerate(self.history[name]):
            was_in = is_in
            first = self.is_new and True not in history[:i]
            if is_good and (first or all(history[max(0, i + 1 - self.checked.healthy_after) : i + 1])):
                is_in = is_in or first or i + 1 >= self.checked.healthy_after
            if not is_good and not any(history[max(0, i + 1 - self.checked.unhealthy_after) : i + 1]):
                is_in = is_in and i + 1 < self.checked.unhealthy_after
            if is_in != was_in:
                since = now if is_in else None
        return is_in, since

    def takes(self) -> dict[str, bool]:
        endpoint, _ = self.verdict(None)
        return {name or "other": endpoint and self.verdict(name)[0] for name in self.history}

    @rule(data=st.data(), is_good=st.booleans())
    def check(self, data: st.DataObject, is_good: bool) -> None:
        name = data.draw(st.sampled_from(list(self.history)))
        self.now += 1.0
        before = {each: self.verdict(each)[0] for each in self.history}
        for each in self.history if name is None and not is_good else [name]:
            self.history[each].append((is_good, self.now))
        after = {each: self.verdict(each)[0] for each in self.history}
        assert self.health.record(name, is_good, self.now) == (before != after)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "health"):
            return
        assert {name: self.health.allows(name) for name in self.takes()} == self.takes()
        assert self.health.is_healthy == self.verdict(None)[0]
        for name in self.history:
            moments = [since for since in (self.verdict(None)[1], self.verdict(name)[1]) if since is not None]
            expected = max(moments, default=None) if self.takes()[name or "other"] else None
            assert self.health.since(name or "other") == expected


TestAsWritten = AsWritten.TestCase
TestAsWritten.settings = settings(max_examples=tries(60), stateful_step_count=30, deadline=None)


def test_defaults_are_the_documents() -> None:
    settings = servers.Health()
    assert (CheckSettings().unhealthy_after, CheckSettings().healthy_after) == (
        settings.unhealthy_after,
        settings.healthy_after,
    )
