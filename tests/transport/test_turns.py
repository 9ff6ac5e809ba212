"""One slice of work in each iteration of the loop."""

from __future__ import annotations

from meshproxy.transport.turns import Turns
from tests.proxy.fakes import FakeLoop


def test_one_turn_is_taken_in_an_iteration() -> None:
    loop = FakeLoop()
    turns = Turns(loop.real)
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
