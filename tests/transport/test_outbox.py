from __future__ import annotations

from typing import Any

from meshproxy.transport.outbox import MOST_DIRTY, Outbox


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


def test_what_small_reads_leave_is_written_together_when_all_sockets_have_been_read(loop: Any) -> None:
    outbox, one, two = Outbox(loop), Gathering(), Gathering()
    for connection in (one, two):
        outbox.add(connection)
    assert (one.flushes, two.flushes) == (0, 0)
    assert len(loop.ready) == 1
    loop.turn()
    assert (one.flushes, two.flushes) == (1, 1)
    outbox.add(one)
    assert len(loop.ready) == 1, "every turn of the loop has its own call"


def test_an_empty_batch_wakes_nobody(loop: Any) -> None:
    outbox = Outbox(loop)
    outbox.begin()
    outbox.flush()
    assert loop.ready == []


def test_there_is_room_for_so_many_until_they_are_flushed(loop: Any) -> None:
    outbox = Outbox(loop)
    for number in range(MOST_DIRTY):
        assert outbox.room == MOST_DIRTY - number
        outbox.add(Gathering())
    assert outbox.room == 0
    outbox.flush()
    assert outbox.room == MOST_DIRTY


def test_a_batch_takes_the_small_reads_before_it_along(loop: Any) -> None:
    outbox, small, large = Outbox(loop), Gathering(), Gathering()
    outbox.add(small)
    outbox.begin()
    outbox.add(large)
    outbox.flush()
    assert (small.flushes, large.flushes) == (1, 1)
    loop.turn()
    assert (small.flushes, large.flushes) == (1, 1)
