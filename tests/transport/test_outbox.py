from __future__ import annotations

from typing import Any

from meshproxy.transport.outbox import Outbox


class Gathering:
    def __init__(self) -> None:
        self.flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def test_a_batch_is_flushed_when_it_ends_and_wakes_nobody(loop: Any) -> None:
    outbox, connection = Outbox(loop), Gathering()
    outbox.begin()
    outbox.add(connection)
    assert connection.flushes == 0
    outbox.flush()
    assert connection.flushes == 1
    assert loop.ready == []


def test_outside_of_a_batch_the_next_turn_flushes_everyone(loop: Any) -> None:
    outbox, one, two = Outbox(loop), Gathering(), Gathering()
    outbox.add(one)
    outbox.add(two)
    assert len(loop.ready) == 1
    loop.turn()
    assert (one.flushes, two.flushes) == (1, 1)
    outbox.flush()
    assert (one.flushes, two.flushes) == (1, 1)


def test_what_a_flush_leaves_behind_is_flushed_too(loop: Any) -> None:
    outbox, second = Outbox(loop), Gathering()

    class First:
        def flush(self) -> None:
            outbox.add(second)

    outbox.begin()
    outbox.add(First())
    outbox.flush()
    assert second.flushes == 1
