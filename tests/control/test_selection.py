"""Which versions of objects are in force."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.control import selection as module
from meshproxy.control.selection import select


@dataclass(frozen=True, eq=False)
class Item:
    """An object that refers to others by name, or is broken by itself."""

    refers: tuple[str, ...] = field(default=())
    is_broken: bool = False


def blame(items: Mapping[str, Item]) -> Collection[str]:
    return [name for name, item in items.items() if item.is_broken or not items.keys() >= set(item.refers)]


def choose(newest: Mapping[str, Item], in_force: Mapping[str, Item]) -> dict[str, Item]:
    return select(newest, in_force, blame, lambda name: "ab".index(name[0]))


GOOD, OTHER, BROKEN = Item(), Item(), Item(is_broken=True)


def test_everything_is_new() -> None:
    newest = {"a": GOOD, "b": Item(("a",))}
    assert choose(newest, {}) == newest


def test_what_is_broken_stays_as_it_was() -> None:
    in_force = {"a": GOOD, "a2": GOOD}
    chosen = choose({"a": BROKEN, "a2": OTHER, "a3": BROKEN}, in_force)
    assert chosen == {"a": GOOD, "a2": OTHER}


def test_what_refers_to_something_that_is_held_back_is_held_back() -> None:
    assert choose({"a": BROKEN, "b": Item(("a",)), "b2": GOOD}, {}) == {"b2": GOOD}


def test_what_others_refer_to_stays_although_it_is_deleted() -> None:
    binding = Item(("a",))
    in_force = {"a": GOOD, "b": binding, "b2": GOOD}
    chosen = choose({"b": binding, "b2": OTHER, "a2": OTHER}, in_force)
    assert chosen == {"a": GOOD, "b": binding, "b2": OTHER, "a2": OTHER}
    assert choose({"b2": OTHER, "a2": OTHER}, chosen) == {"b2": OTHER, "a2": OTHER}


def test_too_many_changes_to_find_the_one_that_breaks_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ONE_BY_ONE", 1)
    in_force = {"a": GOOD, "b": Item(("a",))}
    chosen = choose({"b": in_force["b"], "b2": OTHER}, in_force)
    assert chosen == in_force


names = st.sampled_from(["a", "a2", "b", "b2"])
items = st.builds(Item, st.lists(st.sampled_from(["a", "a2"]), max_size=2).map(tuple), st.booleans())
sets = st.dictionaries(names, items)


@given(sets, st.lists(sets, max_size=4))
def test_a_set_without_problems_comes_of_anything(first: dict[str, Item], then: list[dict[str, Item]]) -> None:
    in_force: Mapping[str, Item] = {}
    for newest in [first, *then]:
        chosen = choose(newest, in_force)
        assert not blame(chosen)
        for name, item in chosen.items():
            assert item is newest.get(name) or item is in_force.get(name)
        assert (not blame(newest)) == (chosen == newest)
        in_force = chosen
