"""Who may stay for how long, without sockets."""

from __future__ import annotations

from typing import Any

from meshproxy.transport.strangers import Strangers


class FakeConnection:
    def __init__(self) -> None:
        self.aborted = 0

    def abort(self) -> None:
        self.aborted += 1


def test_each_stays_for_so_long() -> None:
    over: list[bool] = []
    strangers = Strangers(30.0, lambda: over.append(True))
    first, second = connections = FakeConnection(), FakeConnection()
    for number, each in enumerate(connections):
        strangers.add(each, 100.0 + number)  # type: ignore[arg-type]
    assert strangers.deadline == 130.0
    strangers.expire(130.5)
    assert (first.aborted, second.aborted, len(over)) == (1, 0, 1)
    assert strangers.deadline == 131.0
    strangers.expire(131.0)
    assert (first.aborted, second.aborted, len(strangers), strangers.deadline) == (1, 1, 0, 0.0)


def test_the_oldest_gives_way() -> None:
    over: list[bool] = []
    strangers = Strangers(30.0, lambda: over.append(True))
    first, second = connections = FakeConnection(), FakeConnection()
    for each in connections:
        strangers.add(each, 100.0)  # type: ignore[arg-type]
    strangers.give_way()
    assert (first.aborted, second.aborted, len(over), len(strangers)) == (1, 0, 0, 1)


def test_one_that_has_left_is_forgotten() -> None:
    strangers = Strangers(30.0, lambda: None)
    gone: Any = FakeConnection()
    strangers.add(gone, 100.0)
    strangers.discard(gone)
    strangers.discard(gone)
    strangers.expire(1_000.0)
    assert (gone.aborted, len(strangers), strangers.deadline) == (0, 0, 0.0)
