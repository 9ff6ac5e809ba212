"""Which versions of the objects of a cluster make up the set in force.

Files are replaced by whoever has all of them before their eyes, so they are taken as a whole, or not at all. Objects
are written one at a time, by people who do not know of each other: a change with a problem must not hold up the others.
So as many changes as possible are taken, and what is in force stays in force where its change is held back: also an
object that was deleted, while others still refer to it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

ONE_BY_ONE = 32
"""Changes that are tried one by one if together they break what is in force; each costs a check of what it touches."""

T = TypeVar("T")


def select(
    newest: Mapping[str, T],
    in_force: Mapping[str, T],
    blame: Callable[[Mapping[str, T]], Collection[str]],
    rank: Callable[[str], int],
) -> dict[str, T]:
    """The set that is as new as it can be without problems.

    Args:
        newest: every object, by name. Those that are the same in `in_force` may be left out of both.
        in_force: the set without problems that is to be replaced.
        blame: the names of the objects of a set that have problems, alone or together; empty if the set has none.
        rank: objects refer to those of lower rank only.
    """
    taken = dict(newest)
    while blamed := blame(taken):
        changed = [name for name in blamed if taken.get(name) is not in_force.get(name)]
        if not changed:  # what is in force is broken by a change of something else
            return _one_by_one(taken, in_force, blame, rank)
        for name in changed:
            _put(taken, name, in_force.get(name))
    return taken


def _one_by_one(
    newest: Mapping[str, T],
    in_force: Mapping[str, T],
    blame: Callable[[Mapping[str, T]], Collection[str]],
    rank: Callable[[str], int],
) -> dict[str, T]:
    """What is in force, with each change that breaks nothing."""
    taken = dict(in_force)
    changed = [name for name in newest.keys() | in_force.keys() if newest.get(name) is not in_force.get(name)]
    if len(changed) > ONE_BY_ONE:
        return taken
    # What others refer to comes before them, and goes after them.
    for name in sorted(
        changed, key=lambda name: (name not in newest, rank(name) * (1 if name in newest else -1), name)
    ):
        _put(taken, name, newest.get(name))
        if blame(taken):
            _put(taken, name, in_force.get(name))
    return taken


def _put(objects: dict[str, T], name: str, value: T | None) -> None:
    if value is None:
        objects.pop(name, None)
    else:
        objects[name] = value
