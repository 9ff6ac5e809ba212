"""One slice of work in each iteration of the loop."""

from __future__ import annotations

from math import inf

from meshproxy.transport.turns import Turns
from tests.proxy.fakes import FakeLoop


def test_one_turn_is_taken_in_an_iteration() -> None:
    loop = FakeLoop()
    turns = Turns(loop.real).queue()
    done: list[str] = []
    left = {"a": 3, "b": 2}

    def work(name: str) -> None:
        done.append(name)
        left[name] -= 1
        if left[name]:
            turns.add(lambda: work(name))

    turns.add(lambda: work("a"))
    turns.add(lambda: work("b"))
    assert (len(turns), done) == (2, [])
    while loop.soon:
        before = len(done)
        loop.turn()
        assert len(done) == before + 1
    assert done == ["a", "b", "a", "b", "a"]
    assert len(turns) == 0


def test_work_that_is_not_wanted_any_more_has_no_turn() -> None:
    loop = FakeLoop()
    turns = Turns(loop.real).queue()
    done: list[str] = []

    def first() -> None:
        done.append("first")

    def second() -> None:
        done.append("second")

    turns.add(first)
    turns.add(second)
    turns.discard(first)
    turns.discard(first)
    loop.turn()
    assert (done, loop.soon, len(turns)) == (["second"], [], 0)
    turns.add(first)
    turns.discard(first)
    loop.turn()
    turns.add(second)
    loop.turn()
    assert done == ["second", "second"]


def test_it_is_known_since_when_whose_turn_it_is_has_had_work() -> None:
    loop = FakeLoop()
    turns = Turns(loop.real).queue()
    begun = loop.real.time()
    seen: list[tuple[str, float]] = []

    def first() -> None:
        seen.append(("first", turns.since - begun))
        turns.add(first)

    def second() -> None:
        seen.append(("second", turns.since - begun))

    turns.add(first)
    for _ in range(2):
        loop.advance(1.0)
        loop.turn()
        assert turns.since == inf
    turns.add(second)
    turns.add(second)
    loop.advance(1.0)
    for _ in range(3):
        loop.turn()
    assert seen == [("first", 0.0)] * 3 + [("second", 2.0), ("first", 0.0)]
    turns.discard(first)
    turns.add(first)
    loop.turn()
    assert seen[-1] == ("first", 3.0)


def test_queues_take_turns_whatever_waits_in_each() -> None:
    loop = FakeLoop()
    turns = Turns(loop.real)
    many, one = turns.queue(), turns.queue()
    done: list[str] = []

    def again() -> None:
        done.append("one")
        one.add(again)

    for number in range(3):
        many.add(lambda number=number: done.append(f"many {number}"))  # type: ignore[misc]
    one.add(again)
    for _ in range(5):
        loop.turn()
    assert done == ["many 0", "one", "many 1", "one", "many 2"]
    assert turns.has_work
    one.discard(again)
    assert not turns.has_work
    loop.turn()
    loop.turn()
    assert (len(done), loop.soon) == (5, [])


def test_what_was_queued_is_written_before_the_next_turn() -> None:
    """It was read since the last one, and does not wait for this one, too."""
    loop = FakeLoop()
    done: list[str] = []
    queue = Turns(loop.real, lambda: done.append("written")).queue()

    def work() -> None:
        done.append("turn")
        queue.add(work)

    queue.add(work)
    loop.turn()
    loop.turn()
    assert done == ["written", "turn", "written", "turn"]
