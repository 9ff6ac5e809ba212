"""Who may have keys fetched out of turn: strangers never take it from real callers."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshproxy.identity.key_budget import (
    CAPACITY,
    IN_VAIN,
    KEYS_REMEMBERED,
    REFILL,
    RESERVE,
    SIGNATURES,
    Ask,
    KeyBudget,
    Wanted,
)
from tests.thorough import tries

REAL = Wanted("real")


class Issuer:
    """A budget in front of an issuer that answers at once. Counts its fetches."""

    def __init__(self) -> None:
        self.budget = KeyBudget()
        self.published: set[str | None] = {"first"}
        self.known: set[str | None] = {"first"}
        self.fetches: list[float] = []

    def request(self, kid: str, now: float) -> bool | Ask:
        """A token of this key comes: True if it is verified, else why not."""
        if kid in self.known:
            return True
        asked = self.budget.ask(Wanted(kid), now, is_fetching=False, is_failing=False)
        if asked is Ask.WAIT:
            self.budget.begin()
            self.fetches.append(now)
            self.known = set(self.published)
            self.budget.end(now, is_success=True)
            if kid not in self.known:
                return self.budget.ask(Wanted(kid), now, is_fetching=False, is_failing=False)
            return True
        return asked


def test_a_stranger_once_a_second_does_not_delay_a_key_change() -> None:
    """Another made-up key each time, for ten minutes; then the issuer changes its key. One call is told to retry."""
    issuer = Issuer()
    for second in range(605):
        answer = issuer.request(f"made-up-{second}", float(second))
        assert answer in (Ask.NEVER, Ask.LATER)
    issuer.published = {"real"}
    answers = [issuer.request("real", 605 + call / 100) for call in range(100)]
    assert answers[0] is Ask.LATER
    assert answers[1:] == [True] * 99
    assert len(issuer.fetches) <= CAPACITY + 600 / REFILL + 1


def test_a_stranger_who_repeats_each_key_delays_it_by_one_refill() -> None:
    issuer = Issuer()
    for second in range(600):
        for _ in range(2):
            issuer.request(f"made-up-{second}", float(second))
    issuer.published = {"real"}
    answers = []
    for call in range(round(REFILL * 10)):
        now = 600 + call / 10
        answers.append(issuer.request("real", now))
        issuer.request(f"made-up-{now}", now)
        issuer.request(f"made-up-{now}", now)
    assert Ask.NEVER not in answers  # told to retry, never refused
    assert answers[-1] is True


def test_key_changes_that_follow_each_other() -> None:
    issuer = Issuer()
    for number in range(CAPACITY - RESERVE):
        issuer.published = {f"key-{number}"}
        assert issuer.request(f"key-{number}", 12.0 * number) is True


def test_one_made_up_key_costs_less_and_less() -> None:
    issuer = Issuer()
    for tick in range(6_000):
        assert issuer.request("made-up", tick / 10) in (Ask.NEVER, Ask.LATER)
    waits = [later - earlier for earlier, later in zip(issuer.fetches, issuer.fetches[1:], strict=False)]
    assert waits[:5] == pytest.approx([2, 4, 8, 16, 32], abs=0.11)
    assert waits[5:] == pytest.approx([60] * len(waits[5:]), abs=0.11)


def test_a_key_that_is_published_late_is_found() -> None:
    """An issuer that signs with a key before every copy of its set has it."""
    issuer = Issuer()
    assert issuer.request("real", 0.0) is Ask.NEVER
    issuer.published = {"real"}
    assert issuer.request("real", 1.0) is Ask.NEVER
    assert issuer.request("real", IN_VAIN[0]) is True


def test_an_answer_that_was_on_its_way_settles_nothing() -> None:
    """The regular fetch began before the key was published: a token that joined it asks again afterwards."""
    budget = KeyBudget()
    budget.begin()
    assert budget.ask(REAL, 0.1, is_fetching=True, is_failing=False) is Ask.WAIT
    budget.end(0.2, is_success=True)
    assert budget.ask(REAL, 0.2, is_fetching=False, is_failing=False) is Ask.WAIT


def test_signatures_that_do_not_fit_leave_unknown_keys_alone() -> None:
    """The ids of keys are public: anybody can send a bad signature under each of them, and again and again."""
    budget = KeyBudget()
    fetches = 0
    for number in range(64):
        for _ in range(3):
            wanted = Wanted(f"key-{number}", is_known=True)
            answer = budget.ask(wanted, 0.0, is_fetching=False, is_failing=False)
            assert answer is not Ask.LATER  # refused: a bad signature is one, whatever is due
            if answer is Ask.WAIT:
                budget.begin()
                budget.end(0.0, is_success=True)
                fetches += 1
    assert fetches == SIGNATURES
    for number in range(CAPACITY - RESERVE):
        assert budget.ask(Wanted(f"new-{number}"), 0.0, is_fetching=False, is_failing=False) is Ask.WAIT
        budget.begin()


def test_unknown_keys_leave_signatures_alone() -> None:
    """A key that is replaced under its kid while a stranger makes keys up."""
    issuer = Issuer()
    for second in range(600):
        issuer.request(f"made-up-{second}", float(second))
    wanted = Wanted("first", is_known=True)
    assert issuer.budget.ask(wanted, 600.0, is_fetching=False, is_failing=False) is Ask.WAIT


def test_all_that_ask_before_a_fetch_begins_wait_for_the_same() -> None:
    budget = KeyBudget()
    for number in range(10 * CAPACITY):
        assert budget.ask(Wanted(f"made-up-{number}"), 0.0, is_fetching=False, is_failing=False) is Ask.WAIT
    budget.begin()
    budget.end(0.1, is_success=True)
    assert budget.ask(REAL, 0.1, is_fetching=False, is_failing=False) is Ask.WAIT
    for number in range(10 * CAPACITY):
        assert budget.ask(Wanted(f"made-up-{number}"), 0.1, is_fetching=False, is_failing=False) is Ask.NEVER


def test_bad_signatures_are_not_told_to_retry_after_a_fetch_that_they_joined() -> None:
    budget = KeyBudget()
    budget.begin()
    wanted = Wanted("key", is_known=True)
    assert budget.ask(wanted, 0.1, is_fetching=True, is_failing=False) is Ask.WAIT
    budget.end(0.2, is_success=True)
    assert budget.ask(wanted, 0.2, is_fetching=False, is_failing=False) is Ask.NEVER


def test_an_issuer_that_fails_is_not_asked_by_tokens() -> None:
    budget = KeyBudget()
    for is_fetching in (True, False):
        assert budget.ask(REAL, 0.0, is_fetching=is_fetching, is_failing=True) is Ask.LATER
        assert budget.ask(Wanted("a", True), 0.0, is_fetching=is_fetching, is_failing=True) is Ask.NEVER


def test_a_fetch_that_failed_settles_nothing() -> None:
    budget = KeyBudget()
    assert budget.ask(REAL, 0.0, is_fetching=False, is_failing=False) is Ask.WAIT
    budget.begin()
    budget.end(1.0, is_success=False)
    assert budget.ask(REAL, 60.0, is_fetching=False, is_failing=False) is Ask.WAIT


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_clocks_that_jump(jump: float) -> None:
    issuer = Issuer()
    assert issuer.request("made-up", 0.0) is Ask.NEVER
    for second in range(100):
        issuer.request(f"made-up-{second}", 1.0)
    issuer.published = {"real"}
    assert issuer.request("real", 1.0 + jump) in (True, Ask.LATER)
    assert issuer.request("real", 1.0 + jump) is True
    assert issuer.budget.wait(1.0 + jump) >= 1


class Life(RuleBasedStateMachine):
    """Whatever comes in whatever order: fetches are bounded, and so is memory."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = KeyBudget()
        self.now = 0.0
        self.is_fetching = False
        self.is_failing = False
        self.forced: list[float] = []
        self.made_up = 0

    @rule(seconds=st.sampled_from([0.01, 1.0, 5.0, 30.0, 600.0]))
    def later(self, seconds: float) -> None:
        self.now += seconds

    @rule(kid=st.sampled_from([None, "a", "b"]), is_known=st.booleans(), times=st.integers(1, 3))
    def named(self, kid: str | None, is_known: bool, times: int) -> None:
        for _ in range(times):
            self._ask(Wanted(kid, is_known))

    @rule(count=st.sampled_from([1, 5, 300]))
    def strangers(self, count: int) -> None:
        for _ in range(count):
            self.made_up += 1
            self._ask(Wanted(f"made-up-{self.made_up}"))

    def _ask(self, wanted: Wanted) -> None:
        answer = self.budget.ask(wanted, self.now, is_fetching=self.is_fetching, is_failing=self.is_failing)
        if self.is_failing:
            assert answer is not Ask.WAIT
        if answer is Ask.WAIT and not self.is_fetching:
            self.budget.begin()
            self.is_fetching = True
            self.forced.append(self.now)

    @rule()
    def regular(self) -> None:
        if not self.is_fetching:
            self.budget.begin()
            self.is_fetching = True

    @rule(is_success=st.booleans())
    def end(self, is_success: bool) -> None:
        if self.is_fetching:
            self.budget.end(self.now, is_success=is_success)
            self.is_fetching, self.is_failing = False, not is_success

    @invariant()
    def fetches_are_bounded(self) -> None:
        for place, since in enumerate(self.forced):
            assert len(self.forced) - place <= CAPACITY + SIGNATURES + 2 * (self.now - since) / REFILL + 1

    @invariant()
    def memory_is_bounded(self) -> None:
        for those in (self.budget._named, self.budget._looked_for, self.budget._in_vain):
            assert len(those) <= KEYS_REMEMBERED


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=tries(60), stateful_step_count=30)
