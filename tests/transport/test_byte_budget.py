"""Bytes that all requests buffer together: the one that has buffered longest loses its buffer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.transport.byte_budget import ByteBudget


class Holder:
    """Buffers bytes, and may do something when it is evicted."""

    def __init__(self, budget: ByteBudget) -> None:
        self.budget = budget
        self.evictions = 0
        self.total_when_evicted = -1

    def evicted(self) -> None:
        self.evictions += 1
        self.total_when_evicted = self.budget.total
        self.budget.release(self)  # as a request does on its way out: it holds nothing any more


def make(count: int) -> tuple[ByteBudget, list[Holder]]:
    budget = ByteBudget()
    return budget, [Holder(budget) for _ in range(count)]


def test_up_to_the_limit_none_is_evicted() -> None:
    budget, (first, second) = make(2)
    budget.take(first, 6, 10)
    budget.take(second, 4, 10)
    assert (budget.total, len(budget), first.evictions, second.evictions) == (10, 2, 0, 0)


def test_beyond_it_the_one_that_began_first_is() -> None:
    budget, (first, second, third) = make(3)
    budget.take(first, 4, 10)
    budget.take(second, 4, 10)
    budget.take(first, 1, 10)  # more of it does not make it younger
    budget.take(third, 4, 10)
    assert [each.evictions for each in (first, second, third)] == [1, 0, 0]
    assert (budget.total, len(budget)) == (8, 2)
    assert first.total_when_evicted == 8  # released before it was told


def test_as_many_are_as_it_takes_at_the_end_the_newest_itself() -> None:
    budget, (first, second, third) = make(3)
    budget.take(first, 5, 10)
    budget.take(second, 5, 10)
    budget.take(third, 11, 10)
    assert [each.evictions for each in (first, second, third)] == [1, 1, 1]
    assert (budget.total, len(budget)) == (0, 0)


def test_a_limit_that_a_reload_has_lowered_counts_with_the_next_bytes() -> None:
    budget, (first, second) = make(2)
    budget.take(first, 8, 10)
    budget.take(second, 1, 5)
    assert (first.evictions, second.evictions, budget.total) == (1, 0, 1)


def test_what_is_released_is_not_counted_and_twice_is_once() -> None:
    budget, (first, second) = make(2)
    budget.take(first, 8, 10)
    budget.release(first)
    budget.release(first)
    budget.release(second)
    assert (budget.total, len(budget)) == (0, 0)
    budget.take(second, 10, 10)
    assert second.evictions == 0


@given(
    steps=st.lists(st.tuples(st.sampled_from(["take", "release"]), st.integers(0, 4), st.integers(0, 20)), max_size=40)
)
def test_the_total_is_what_the_holders_have_and_never_above_the_limit(steps: list[tuple[str, int, int]]) -> None:
    budget, holders = make(5)
    held: dict[int, int] = {}
    for what, which, size in steps:
        evictions = [each.evictions for each in holders]
        if what == "take":
            budget.take(holders[which], size, 25)
            held[which] = held.get(which, 0) + size
        else:
            budget.release(holders[which])
            held.pop(which, None)
        evicted = {number for number, each in enumerate(holders) if each.evictions > evictions[number]}
        assert evicted == set(list(held)[: len(evicted)])
        for number in evicted:
            del held[number]
        assert budget.total == sum(held.values()) <= 25
        assert len(budget) == len(held)
