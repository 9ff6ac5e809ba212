"""What outlives a reload."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from meshproxy.config.routes import RateLimit
from meshproxy.routing.carried_state import CarriedState
from meshproxy.routing.retry import RetryBudget
from tests.thorough import tries

LIMIT = RateLimit(requests=1.0)


def test_a_quota_is_that_of_the_document() -> None:
    limiter = CarriedState().rate_limiter("r", 0, RateLimit(per="caller", requests=2.0, burst=1.0))
    assert [limiter.admit("m", "a", 100.0) for _ in range(2)] == [None, None]
    denied = limiter.admit("m", "a", 100.0)
    assert denied is not None
    assert (denied.what, denied.retry_after) == ("requests", 0.5)
    assert limiter.admit("m", "b", 100.0) is None


def test_a_budget_is_that_of_the_document() -> None:
    budget = CarriedState().budget("r", 0.0, 2.0)
    assert [budget.withdraw(100.0) for _ in range(3)] == [True, True, False]


def test_the_same_as_long_as_settings_are_equal() -> None:
    carried = CarriedState()
    budget, limiter = carried.budget("r", 0.2, 10.0), carried.rate_limiter("r", 0, LIMIT)
    carried.adopt()
    assert carried.budget("r", 0.2, 10.0) is budget
    assert carried.rate_limiter("r", 0, RateLimit(requests=1.0)) is limiter
    assert carried.budget("s", 0.2, 10.0) is not budget
    assert carried.rate_limiter("r", 1, LIMIT) is not limiter
    assert carried.rate_limiter("s", 0, LIMIT) is not limiter
    carried.adopt()
    assert carried.budget("r", 0.2, 11.0) is not budget
    assert carried.rate_limiter("r", 0, RateLimit(requests=2.0)) is not limiter


def test_what_was_not_asked_for_is_forgotten() -> None:
    carried = CarriedState()
    budget = carried.budget("r", 0.2, 10.0)
    carried.adopt()
    carried.adopt()
    assert carried.budget("r", 0.2, 10.0) is not budget


def test_a_compile_that_comes_to_nothing_changes_nothing() -> None:
    carried = CarriedState()
    budget = carried.budget("r", 0.2, 10.0)
    carried.adopt()
    carried.budget("r", 0.9, 10.0)
    carried.budget("new", 0.9, 10.0)
    assert carried.budget("r", 0.2, 10.0) is budget
    carried.adopt()
    assert carried.budget("r", 0.2, 10.0) is budget


class Reloads(RuleBasedStateMachine):
    """Against a model: what is in use, and what has been asked for since."""

    def __init__(self) -> None:
        super().__init__()
        self.carried = CarriedState()
        self.current: dict[str, tuple[float, RetryBudget]] = {}
        self.asked: dict[str, tuple[float, RetryBudget]] = {}

    @rule(name=st.sampled_from("ab"), minimum=st.sampled_from([1.0, 2.0]))
    def ask(self, name: str, minimum: float) -> None:
        budget = self.carried.budget(name, 0.2, minimum)
        known = self.current.get(name)
        assert (known is not None and known[1] is budget) == (known is not None and known[0] == minimum)
        self.asked[name] = (minimum, budget)

    @precondition(lambda self: self.asked)
    @rule()
    def adopt(self) -> None:
        self.carried.adopt()
        self.current, self.asked = self.asked, {}


TestReloads = Reloads.TestCase
TestReloads.settings = settings(max_examples=tries(50))
