"""REST to a sidecar: connections of HTTP/1.1 where they are worth it, streams of HTTP/2 else."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.sidecar.drain import LAST_REQUEST_SECONDS
from meshproxy.transport.certificate_age import LEAVING
from meshproxy.transport.connect_failures import ConnectError, ConnectFailure
from meshproxy.transport.reaper import PERIOD
from meshproxy.upstream import pool as pools
from meshproxy.upstream import sidecar_pool
from meshproxy.upstream.pool import H2Pool, PoolFull, PoolSettings
from meshproxy.upstream.sidecar_pool import CALLS_PER_CONNECTION, IDLE_SECONDS, MOST, SETTLING_SECONDS, SidecarPool
from tests.upstream.test_pool import ADDRESS, Connection, Network, Wanting, want

SETTINGS = PoolSettings(connect_timeout=1.0, max_connections=1 << 20, max_pending=100, idle_timeout=60.0)


class Pause:
    """Time that has to pass before a connection is used."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.is_over = True

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        if not self.is_over:
            await Gate()


class Gate:
    def __await__(self) -> Generator[Gate, Any, Any]:
        return (yield self)


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.network = Network()
        self.pause = Pause()
        self.left: list[str] = []
        self.network.shared.on_drained = self.left.append
        monkeypatch.setattr(pools, "connect_h2", self.network.connect)
        monkeypatch.setattr(sidecar_pool, "connect_h1", self.network.connect)
        monkeypatch.setattr(sidecar_pool, "sleep", self.pause)
        pool_settings = PoolSettings(**{**msgspec.structs.asdict(SETTINGS), **settings})
        self.streams: Any = H2Pool(self.network.shared, ADDRESS, pool_settings)  # type: ignore[arg-type]
        self.pool: Any = SidecarPool(self.streams, None)
        self.failures: list[ConnectError] = []
        self.pool.on_failure = self.failures.append
        (first,) = want(self.pool)
        self.h2 = self.network.accept(streams=1 << 20)
        first.stream.end()
        self.pool._missed = 0

    def call(self, count: int = 1) -> list[Any]:
        """Calls, one after the other. Returns what each was carried by."""
        carried = []
        for _ in range(count):
            (waiter,) = want(self.pool)
            carried.append(waiter.stream)
            self.end(waiter)
        return carried

    def end(self, waiter: Wanting) -> None:
        if isinstance(waiter.stream, Connection):
            self.pool.released(waiter.stream)
        else:
            waiter.stream.end()

    def buy(self) -> Connection:
        """As many calls as a connection takes, and it."""
        self.call(CALLS_PER_CONNECTION)
        return self.network.accept()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_rare_calls_are_streams_of_one_connection(bench: Bench) -> None:
    carried = bench.call(CALLS_PER_CONNECTION - 1)
    assert all(stream.connection is bench.h2 for stream in carried)
    assert bench.network.dials == []


def test_frequent_ones_get_a_connection_and_do_not_wait_for_it(bench: Bench) -> None:
    bench.call(CALLS_PER_CONNECTION)
    assert len(bench.network.dials) == 1
    (stream,) = bench.call()
    assert stream.connection is bench.h2
    bench.network.accept()
    assert bench.network.dials == []
    assert bench.call(3) == [bench.network.connections[-1]] * 3
    assert bench.pause.asked == [SETTLING_SECONDS]


def test_calls_at_once_get_one_each_after_as_many_more(bench: Bench) -> None:
    connection = bench.buy()
    (holding,) = want(bench.pool)
    assert holding.stream is connection
    second = bench.buy()
    (other,) = want(bench.pool)
    assert other.stream is second


def test_a_connection_that_the_sidecar_refuses_carries_nothing(bench: Bench) -> None:
    """With TLS 1.3 it looks well until the server has said no."""
    bench.pause.is_over = False
    bench.call(CALLS_PER_CONNECTION)
    task = bench.network.dials[0]
    connection = bench.network.accept()
    assert bench.call()[0].connection is bench.h2
    connection.lose()
    bench.network.dials.append(task)
    task.end(None)  # the pause
    assert bench.call()[0].connection is bench.h2
    assert [failure.failure for failure in bench.failures] == [ConnectFailure.CLOSED]
    assert bench.pool.size == 0


def test_one_that_cannot_be_opened_fails_no_call(bench: Bench) -> None:
    bench.call(CALLS_PER_CONNECTION)
    bench.network.refuse()
    assert [str(failure) for failure in bench.failures] == ["refused"]
    assert bench.call()[0].connection is bench.h2
    assert bench.network.dials == []
    bench.network.wait(pools.FIRST_PAUSE)
    bench.buy()
    assert isinstance(bench.call()[0], Connection)


def test_after_a_failure_they_are_opened_one_at_a_time_with_pauses(bench: Bench) -> None:
    """However many calls have paid for one."""
    bench.call(3 * CALLS_PER_CONNECTION)
    assert len(bench.network.dials) == 3
    bench.network.refuse()
    bench.call(CALLS_PER_CONNECTION)
    assert len(bench.network.dials) == 2, "others are under way"
    bench.network.refuse()
    bench.network.refuse()
    bench.call(CALLS_PER_CONNECTION)
    assert bench.network.dials == [], "it pauses"
    bench.network.wait(pools.FIRST_PAUSE)
    bench.call(2 * CALLS_PER_CONNECTION)
    assert len(bench.network.dials) == 1, "one, to see whether it works"
    bench.network.accept()
    assert isinstance(bench.call()[0], Connection)
    want(bench.pool)
    bench.call(2 * CALLS_PER_CONNECTION)
    assert len(bench.network.dials) == 2, "it works"


def test_who_waits_waits_for_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, max_connections=1, max_pending=1)
    bench.h2.most = 1
    first, second, third = want(bench.pool, 3)
    assert first.stream.connection is bench.h2
    assert second.waits()
    assert isinstance(third.error, PoolFull)
    bench.pool.withdraw(second)
    first.stream.end()
    assert second.waits()
    assert bench.call()[0].connection is bench.h2


def test_connections_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(MOST):
        bench.buy()
        want(bench.pool)
    bench.call(2 * CALLS_PER_CONNECTION)
    assert bench.network.dials == []
    assert bench.pool.size == MOST


def test_both_kinds_together_are_bounded_and_one_is_left_to_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Bench(monkeypatch, max_connections=1)
    one.call(3 * CALLS_PER_CONNECTION)
    assert one.network.dials == []
    bench = Bench(monkeypatch, max_connections=3)
    for _ in range(2):
        bench.buy()
        want(bench.pool)
    bench.call(2 * CALLS_PER_CONNECTION)
    assert bench.network.dials == []
    assert bench.pool.size + bench.streams.size == 3


def test_streams_that_wait_for_a_connection_get_the_room_of_an_idle_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, max_connections=2)
    idle = bench.buy()
    bench.h2.most = 1
    first, second = want(bench.streams, 2)
    assert first.stream.connection is bench.h2
    assert second.waits()
    assert idle.is_closing
    assert bench.network.dials == []
    idle.lose()
    bench.network.accept()
    assert second.stream is not None


def test_many_that_wait_for_one_connection_close_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, max_connections=5)
    held: list[Wanting] = []
    for _ in range(4):
        bench.buy()
        held += want(bench.pool)
    for waiter in held:
        bench.end(waiter)
    bench.h2.most = 1
    want(bench.streams, 5)
    closing = [waiter.stream for waiter in held if waiter.stream.is_closing]
    assert len(closing) == 1
    closing[0].lose()
    assert len(bench.network.dials) == 1
    assert sum(waiter.stream.is_closing for waiter in held) == 1


def test_who_waits_for_a_connection_gets_the_room_of_one_that_becomes_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only one of HTTP/2 is leaving, but a long stream keeps it."""
    bench = Bench(monkeypatch, max_connections=2)
    busy = bench.buy()
    (call,) = want(bench.pool)
    assert call.stream is busy
    want(bench.streams)
    bench.streams.retired(bench.h2)
    (waiter,) = want(bench.streams)
    assert waiter.waits()
    assert not busy.is_closing
    bench.end(call)
    assert busy.is_closing
    busy.lose()
    bench.network.accept()
    assert waiter.stream is not None


@pytest.mark.parametrize("end", ["refused", "closed"])
def test_who_waits_for_a_connection_gets_the_room_of_one_that_was_not_opened(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    bench = Bench(monkeypatch, max_connections=2)
    bench.call(CALLS_PER_CONNECTION)
    want(bench.streams)
    bench.streams.retired(bench.h2)
    (waiter,) = want(bench.streams)
    (dial,) = bench.network.dials
    if end == "refused":
        bench.network.refuse()
    else:
        bench.pool.close()
        bench.network.turn()
    assert dial not in bench.network.dials
    assert waiter.waits()
    bench.network.accept()
    assert waiter.stream is not None


def test_an_idle_one_is_closed_before_a_sidecar_that_drains_closes_it(bench: Bench) -> None:
    connection = bench.buy()
    bench.call()
    assert connection.deadline == bench.network.now + IDLE_SECONDS
    assert IDLE_SECONDS + 2 * PERIOD < LAST_REQUEST_SECONDS


def test_none_is_used_when_its_certificates_come_to_an_end(bench: Bench) -> None:
    connection = bench.buy()
    connection.good_until = bench.network.now + 1.0
    bench.call()
    assert connection.deadline == connection.good_until
    (waiter,) = want(bench.pool)
    bench.network.wait(1.0)
    bench.end(waiter)
    assert connection.is_closing
    assert bench.left == [LEAVING]
    connection.lose()
    assert bench.call()[0].connection is bench.h2
    assert bench.pool.size == 0


def test_a_cancelled_call_costs_its_connection_and_those_without_buy_another(bench: Bench) -> None:
    connection = bench.buy()
    want(bench.pool)
    connection.lose()
    carried = bench.call(CALLS_PER_CONNECTION - 1)
    assert all(stream.connection is bench.h2 for stream in carried)
    assert bench.network.dials == []
    bench.call()
    assert len(bench.network.dials) == 1


@given(st.lists(st.sampled_from(["call", "begin", "end", "lose", "accept", "refuse", "wait"]), max_size=600))
def test_handshakes_cost_no_more_than_the_calls_that_paid_for_them(steps: list[str]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sidecar_pool, "CALLS_PER_CONNECTION", 4)
        bench = Bench(monkeypatch)
        streams, dials = 0, 0
        open_calls: list[Wanting] = []
        for step in steps:
            before = len(bench.network.dials)
            if step in ("call", "begin"):
                (waiter,) = want(bench.pool)
                assert not waiter.waits()
                assert waiter.error is None
                streams += not isinstance(waiter.stream, Connection)
                open_calls.append(waiter)
                dials += len(bench.network.dials) - before
                if step == "call":
                    bench.end(open_calls.pop())
            elif step == "end" and open_calls:
                bench.end(open_calls.pop(0))
            elif step == "lose" and (busy := [each for each in open_calls if isinstance(each.stream, Connection)]):
                open_calls.remove(busy[0])
                busy[0].stream.lose()
            elif step == "accept" and bench.network.dials:
                bench.network.accept()
            elif step == "refuse" and bench.network.dials:
                bench.network.refuse()
            elif step == "wait":
                bench.network.wait(pools.FIRST_PAUSE)
            assert dials * 4 <= streams
            assert bench.pool.size <= MOST


def test_closing_closes_what_is_idle_and_calls_that_come_late_are_served(bench: Bench) -> None:
    idle = bench.buy()
    bench.pool.close()
    assert idle.is_closing
    late = want(bench.pool, 2 * CALLS_PER_CONNECTION)
    assert all(waiter.stream.connection.owner is bench.streams for waiter in late)
    assert bench.network.dials == [], "none is opened for them"
