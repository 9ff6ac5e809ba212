"""Pools without sockets and without a loop: a connection is opened when the test says so, or is not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from itertools import pairwise
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshproxy.transport.connect_failures import ConnectError
from meshproxy.upstream import pool as pools
from meshproxy.upstream.pool import H1Pool, H2Pool, PoolFull
from tests.thorough import tries

ADDRESS = "127.0.0.1:8500"


class Dial:
    """An attempt to connect, which waits for the test."""

    def __init__(self, network: Network, owner: Any) -> None:
        self.network = network
        self.owner = owner

    def __await__(self) -> Generator[Dial, Any, Any]:
        return (yield self)


class Task:
    """A coroutine that runs when the test says so."""

    def __init__(self, network: Network, coroutine: Coroutine[Any, Any, None]) -> None:
        self._network = network
        self._coroutine = coroutine
        self.is_cancelled = False
        self._callbacks: list[Any] = []
        self.dial: Dial = coroutine.send(None)
        network.dials.append(self)

    def add_done_callback(self, callback: Any) -> None:
        self._callbacks.append(callback)

    def cancel(self) -> None:
        """As asyncio's: the coroutine hears of it later (`Network.turn`)."""
        self.is_cancelled = True

    def end(self, result: Any) -> None:
        """The connection, or the error that came instead."""
        self._network.dials.remove(self)
        try:
            if isinstance(result, BaseException):
                self._coroutine.throw(result)
            else:
                self._coroutine.send(result)
        except (StopIteration, asyncio.CancelledError):
            for callback in self._callbacks:
                callback(self)


class Connection:
    """What the pool sees of a connection, of either version."""

    def __init__(self, owner: Any, streams: int = 2) -> None:
        self.owner = owner
        self.is_closing = False
        self.is_aged = False
        self.good_until = inf
        self.deadline = 0.0
        self.most = streams
        self.streams: dict[int, Stream] = {}
        self._opened = 0

    @property
    def refuses_streams(self) -> bool:
        return not self.streams and not self.is_closing and not self.most

    def limit_idle_time(self, seconds: float) -> None:
        self.deadline = self.owner.shared.loop.now + seconds

    @property
    def can_open(self) -> bool:
        return not self.is_closing and len(self.streams) < self.most

    def open(self) -> Stream:
        self._opened += 1
        stream = self.streams[self._opened] = Stream(self, self._opened)
        return stream

    def close(self) -> None:
        self.is_closing = True

    def lose(self) -> None:
        """The socket is gone."""
        self.is_closing = True
        self.streams.clear()
        self.owner.closed(self)


class Stream:
    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.number = number

    def end(self) -> None:
        self.connection.streams.pop(self.number, None)
        if not self.connection.is_closing:
            self.connection.owner.stream_closed(self.connection)


class Timer:
    def __init__(self, network: Network, when: float, callback: Any) -> None:
        self._network = network
        self.when = when
        self.callback = callback

    def cancel(self) -> None:
        self._network.timers.remove(self)


class Network:
    """The loop and the connector of the pools under test."""

    def __init__(self) -> None:
        self.now = 100.0
        self.dials: list[Task] = []
        self.timers: list[Timer] = []
        self.connections: list[Connection] = []
        self.shared = SimpleNamespace(loop=self, outbox=SimpleNamespace(begin=lambda: None, flush=lambda: None))

    def time(self) -> float:
        return self.now

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> Task:
        return Task(self, coroutine)

    async def connect(self, shared: Any, address: str, owner: Any, timeout: float, peer: Any = None) -> Any:
        assert (address, timeout) == (ADDRESS, 1.0)
        self.peer = peer
        return await Dial(self, owner)

    def call_at(self, when: float, callback: Any) -> Timer:
        self.timers.append(Timer(self, when, callback))
        return self.timers[-1]

    def turn(self) -> None:
        """Cancelled attempts hear of it."""
        for task in [task for task in self.dials if task.is_cancelled]:
            task.end(asyncio.CancelledError())

    def wait(self, seconds: float) -> None:
        """Time passes; timers strike."""
        self.now += seconds
        for timer in [timer for timer in self.timers if timer.when <= self.now]:
            self.timers.remove(timer)
            timer.callback()

    def accept(self, streams: int = 2, is_closing: bool = False) -> Connection:
        """The first attempt succeeds."""
        task = self.dials[0]
        connection = Connection(task.dial.owner, streams)
        connection.is_closing = is_closing
        self.connections.append(connection)
        task.end(connection)
        return connection

    def refuse(self, error: Exception | None = None) -> None:
        """The first attempt fails."""
        self.dials[0].end(error or ConnectError("refused"))


class Wanting:
    """A waiter, and what it was told."""

    def __init__(self) -> None:
        self.stream: Any = None
        self.error: ConnectError | None = None
        self.reacts: Any = None
        self.crash: Exception | None = None

    def crashed(self, error: Exception) -> None:
        self.crash = error

    def acquired(self, stream: Any) -> None:
        assert self.stream is None
        assert self.error is None
        self.stream = stream
        if self.reacts is not None:
            self.reacts()

    def acquire_failed(self, error: ConnectError) -> None:
        assert self.stream is None
        assert self.error is None
        self.error = error

    def waits(self) -> bool:
        return self.stream is None and self.error is None


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    monkeypatch.setattr(pools, "connect_h1", network.connect)
    monkeypatch.setattr(pools, "connect_h2", network.connect)
    return network


def make(
    network: Network, version: str, max_connections: int = 1 << 30, max_pending: int = 100, drawn: float = 0.0
) -> Any:
    settings = SimpleNamespace(
        connect_timeout=1.0, max_connections=max_connections, max_pending=max_pending, idle_timeout=60.0
    )
    kind: Any = H1Pool if version == "HTTP/1.1" else H2Pool
    return kind(network.shared, ADDRESS, settings, draw=lambda: drawn)


def want(pool: H1Pool | H2Pool, count: int = 1) -> list[Wanting]:
    waiters = [Wanting() for _ in range(count)]
    for waiter in waiters:
        pool.acquire(waiter)
    return waiters


def give_back(pool: H1Pool | H2Pool, waiter: Wanting) -> None:
    """The exchange is over."""
    if isinstance(pool, H1Pool):
        pool.released(waiter.stream)
    else:
        waiter.stream.end()


def connection_of(waiter: Wanting) -> Connection:
    stream = waiter.stream
    return stream if isinstance(stream, Connection) else stream.connection


both = pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])


class TestEitherVersion:
    @both
    def test_the_first_taker_waits_for_a_connection_and_the_next_does_not(self, network: Network, version: str) -> None:
        pool = make(network, version)
        (first,) = want(pool)
        assert first.waits()
        connection = network.accept()
        assert connection_of(first) is connection
        give_back(pool, first)
        (second,) = want(pool)
        assert connection_of(second) is connection
        assert (pool.size, network.dials) == (1, [])

    @both
    def test_a_connection_that_is_not_used_grows_old(self, network: Network, version: str) -> None:
        pool = make(network, version)
        (waiter,) = want(pool)
        connection = network.accept()
        give_back(pool, waiter)
        assert connection.deadline == network.now + 60.0

    @both
    def test_so_does_one_whose_taker_has_gone_meanwhile(self, network: Network, version: str) -> None:
        pool = make(network, version)
        (waiter,) = want(pool)
        pool.withdraw(waiter)
        pool.withdraw(waiter)
        connection = network.accept()
        assert waiter.waits()
        assert connection.deadline == network.now + 60.0
        (other,) = want(pool)
        assert connection_of(other) is connection

    @both
    def test_a_failure_is_told_to_everyone_who_waited_for_it(self, network: Network, version: str) -> None:
        pool = make(network, version)
        waiters = want(pool, 3)
        while network.dials:
            network.refuse()
        assert [str(waiter.error) for waiter in waiters] == ["refused"] * 3
        assert pool.size == 0

    @both
    def test_so_it_is_where_few_connections_are_allowed(self, network: Network, version: str) -> None:
        pool = make(network, version, max_connections=1)
        waiters = want(pool, 5)
        network.refuse()
        assert [str(waiter.error) for waiter in waiters] == ["refused"] * 5
        assert (pool.size, network.dials) == (0, [])

    @both
    def test_after_a_failure_the_next_taker_tries_again(self, network: Network, version: str) -> None:
        pool = make(network, version)
        want(pool)
        network.refuse()
        network.wait(0.1)
        (waiter,) = want(pool)
        network.accept()
        assert not waiter.waits()

    @both
    def test_those_who_can_have_a_connection_that_stands_wait_for_it(self, network: Network, version: str) -> None:
        """One more could not be opened; that says nothing about those there are."""
        pool = make(network, version, max_connections=2)
        (holding, *rest) = want(pool)
        network.accept(streams=1)
        rest = want(pool, 3)
        network.refuse()
        assert [waiter.error is not None for waiter in rest] == [True, False, False]
        while any(waiter.waits() for waiter in rest):
            network.wait(1.0)
            network.refuse()
        assert holding.error is None
        (last,) = want(pool)
        give_back(pool, holding)
        assert connection_of(last) is connection_of(holding)

    @both
    def test_a_mistake_of_ours_is_a_failure_too(
        self, network: Network, version: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool = make(network, version)
        (waiter,) = want(pool)
        network.refuse(ValueError("label too long"))
        assert str(waiter.error) == f"{ADDRESS} cannot be reached: label too long"
        assert pool.size == 0
        assert "internal error in connecting" in caplog.text

    @both
    def test_a_server_that_closes_at_once_is_a_failure(self, network: Network, version: str) -> None:
        pool = make(network, version)
        (waiter,) = want(pool)
        connection = network.accept(is_closing=True)
        assert str(waiter.error) == f"{ADDRESS} closed the connection immediately"
        connection.lose()
        assert pool.size == 0

    @both
    def test_a_connection_that_broke_while_it_was_opened_is_counted_once(self, network: Network, version: str) -> None:
        pool = make(network, version)
        want(pool)
        pool.closed(Connection(pool))
        network.refuse()
        assert pool.size == 0

    @both
    def test_a_lost_connection_makes_room_for_another(self, network: Network, version: str) -> None:
        pool = make(network, version, max_connections=1)
        (holding,) = want(pool)
        network.accept(streams=1)
        (waiting,) = want(pool)
        assert network.dials == []
        connection_of(holding).lose()
        assert pool.size == 1
        network.accept()
        assert not waiting.waits()

    @both
    def test_too_many_that_wait_are_told_so(self, network: Network, version: str) -> None:
        pool = make(network, version, max_connections=1, max_pending=2)
        waiters = want(pool, 3)
        assert [waiter.waits() for waiter in waiters] == [True, True, False]
        assert isinstance(waiters[2].error, PoolFull)
        assert str(waiters[2].error) == f"2 requests already wait for one of 1 connections to {ADDRESS}"

    @both
    def test_who_came_first_is_served_first(self, network: Network, version: str) -> None:
        pool = make(network, version, max_connections=1)
        (holding,) = want(pool)
        network.accept(streams=1)
        first, second = want(pool, 2)
        give_back(pool, holding)
        assert [first.waits(), second.waits()] == [False, True]
        give_back(pool, first)
        assert not second.waits()

    @both
    def test_a_taker_that_gives_up_at_once_is_told_once(self, network: Network, version: str) -> None:
        """What it does within `acquired` comes back to the pool: it must not find itself in the queue."""
        pool = make(network, version, max_connections=1)
        (holding,) = want(pool)
        network.accept(streams=1)
        hasty, patient = Wanting(), Wanting()
        hasty.reacts = lambda: give_back(pool, hasty)
        pool.acquire(hasty)
        pool.acquire(patient)
        give_back(pool, holding)
        assert connection_of(hasty) is connection_of(patient) is connection_of(holding)

    @both
    def test_a_taker_that_fails_does_not_stand_in_the_way_of_others(self, network: Network, version: str) -> None:
        pool = make(network, version, max_connections=1)
        (holding,) = want(pool)
        network.accept(streams=2 if version == "HTTP/2" else 1)
        if version == "HTTP/2":
            (other,) = want(pool)
        failing, patient = Wanting(), Wanting()

        def fail() -> None:
            raise RuntimeError("a mistake of ours")

        failing.reacts = fail
        pool.acquire(failing)
        pool.acquire(patient)
        give_back(pool, holding)
        assert isinstance(failing.crash, RuntimeError)
        give_back(pool, failing if version == "HTTP/1.1" else other)
        assert not patient.waits()


class TestTrouble:
    @both
    def test_whoever_comes_right_after_a_failure_is_told_at_once(self, network: Network, version: str) -> None:
        pool = make(network, version)
        want(pool)
        network.refuse()
        (waiter,) = want(pool)
        assert str(waiter.error) == "refused (last attempt)"
        assert not isinstance(waiter.error, PoolFull)
        assert network.dials == []

    @both
    def test_after_the_pause_one_tries_and_the_others_hope_with_it(self, network: Network, version: str) -> None:
        pool = make(network, version)
        want(pool)
        network.refuse()
        network.wait(0.1)
        waiters = want(pool, 5)
        assert len(network.dials) == 1
        assert all(waiter.waits() for waiter in waiters)
        network.accept(streams=5)
        while network.dials:
            network.accept()
        assert not any(waiter.waits() or waiter.error for waiter in waiters)

    @both
    def test_but_not_for_long(self, network: Network, version: str) -> None:
        """A server that does not answer would cost each of them the whole time limit."""
        pool = make(network, version)
        want(pool)
        network.refuse()
        network.wait(0.1)
        (trying,) = want(pool)
        network.wait(0.06)
        (late,) = want(pool)
        assert trying.waits()
        assert late.error is not None

    @both
    @pytest.mark.parametrize(
        ("drawn", "pauses"), [(0.0, [0.1, 0.2, 0.4, 0.5, 0.5]), (0.999, [0.2, 0.4, 0.8, 1.0, 1.0])]
    )
    def test_pauses_double_up_to_a_second(
        self, network: Network, version: str, drawn: float, pauses: list[float]
    ) -> None:
        pool = make(network, version, drawn=drawn)
        want(pool)
        network.refuse()
        for pause in pauses:
            network.wait(pause - 0.002)
            assert want(pool)[0].error
            network.wait(0.003)
            (waiter,) = want(pool)
            assert waiter.waits()
            network.refuse()
            assert waiter.error

    @both
    def test_a_success_ends_it(self, network: Network, version: str) -> None:
        pool = make(network, version)
        want(pool)
        network.refuse()
        network.wait(0.1)
        want(pool)
        network.accept(streams=1).lose()
        (waiter,) = want(pool)
        assert waiter.waits()
        network.refuse()
        network.wait(0.1)  # a first failure again
        assert want(pool)[0].waits()

    def test_several_attempts_that_fail_together_are_one_failure(self, network: Network) -> None:
        pool = make(network, "HTTP/1.1")
        want(pool, 6)
        while network.dials:
            network.refuse()
        network.wait(0.1)
        assert want(pool)[0].waits()

    @both
    def test_while_a_connection_is_busy_others_wait_for_it_and_one_is_tried_in_the_background(
        self, network: Network, version: str
    ) -> None:
        pool = make(network, version)
        (holding,) = want(pool)
        network.accept(streams=1)
        want(pool)
        network.refuse()
        waiters = want(pool, 2)
        assert all(waiter.waits() for waiter in waiters)
        assert network.dials == []
        network.wait(0.1)
        assert len(network.dials) == 1
        give_back(pool, holding)
        assert connection_of(waiters[0]) is connection_of(holding)
        network.accept(streams=1)
        assert not waiters[1].waits()

    @both
    def test_not_more_often_than_every_tenth_of_a_second(self, network: Network, version: str) -> None:
        """Of a server that is gone, however many ask for it."""
        pool = make(network, version)
        times: list[float] = []
        for _ in range(3_000):
            want(pool)
            while network.dials:
                times.append(network.now)
                network.refuse()
            network.wait(0.001)
        assert min(after - before for before, after in pairwise(times)) > 0.099
        assert 6 <= len(times) <= 10

    @both
    def test_a_pool_that_is_closed_is_left_by_its_timer(self, network: Network, version: str) -> None:
        pool = make(network, version)
        (holding,) = want(pool)
        network.accept(streams=1)
        want(pool)
        network.refuse()
        (waiter,) = want(pool)
        pool.withdraw(waiter)
        assert len(network.timers) == 1
        pool.close()
        assert network.timers == []
        give_back(pool, holding)
        assert connection_of(holding).is_closing


class TestClosing:
    @both
    def test_what_is_idle_is_closed(self, network: Network, version: str) -> None:
        pool = make(network, version)
        (waiter,) = want(pool)
        connection = network.accept()
        give_back(pool, waiter)
        pool.close()
        assert connection.is_closing

    @both
    def test_what_is_in_use_is_closed_when_it_comes_back(self, network: Network, version: str) -> None:
        pool = make(network, version)
        (waiter,) = want(pool)
        connection = network.accept()
        pool.close()
        assert not connection.is_closing
        give_back(pool, waiter)
        assert connection.is_closing

    @both
    def test_attempts_that_nobody_waits_for_are_given_up(self, network: Network, version: str) -> None:
        pool = make(network, version)
        (waiter,) = want(pool)
        (task,) = network.dials
        pool.withdraw(waiter)
        pool.close()
        assert task.is_cancelled
        network.turn()
        assert pool.size == 0

    @both
    def test_a_request_that_comes_while_one_is_given_up_gets_another(self, network: Network, version: str) -> None:
        pool = make(network, version)
        (gone,) = want(pool)
        pool.withdraw(gone)
        pool.close()
        (late,) = want(pool)
        network.turn()
        network.accept()
        assert not late.waits()

    @both
    def test_a_request_that_waits_is_not_lost_to_a_reload(self, network: Network, version: str) -> None:
        pool = make(network, version)
        (waiter,) = want(pool)
        pool.close()
        connection = network.accept()
        assert connection_of(waiter) is connection
        give_back(pool, waiter)
        assert connection.is_closing

    @both
    def test_a_request_of_an_older_snapshot_is_still_served(self, network: Network, version: str) -> None:
        pool = make(network, version)
        pool.close()
        (waiter,) = want(pool)
        connection = network.accept()
        assert connection_of(waiter) is connection
        give_back(pool, waiter)
        assert connection.is_closing
        connection.lose()
        assert pool.size == 0

    @both
    def test_a_failure_is_told_then_as_well(self, network: Network, version: str) -> None:
        pool = make(network, version)
        waiters = want(pool, 2)
        pool.close()
        while network.dials:
            network.refuse()
        assert all(waiter.error for waiter in waiters)


class TestHttp1:
    def test_one_connection_carries_one_request(self, network: Network) -> None:
        pool = make(network, "HTTP/1.1")
        waiters = want(pool, 2)
        assert len(network.dials) == 2
        connections = [network.accept(), network.accept()]
        assert [waiter.stream for waiter in waiters] == connections

    def test_the_one_used_last_is_lent_first(self, network: Network) -> None:
        """The others grow old and are closed: a burst does not keep its connections for ever."""
        pool = make(network, "HTTP/1.1")
        first, second = want(pool, 2)
        network.accept()
        network.accept()
        give_back(pool, first)
        give_back(pool, second)
        assert want(pool)[0].stream is second.stream

    def test_an_idle_connection_is_given_at_once_or_not_at_all(self, network: Network) -> None:
        pool = make(network, "HTTP/1.1")
        assert isinstance(pool, H1Pool)
        assert pool.take_idle() is None
        assert network.dials == []
        (waiter,) = want(pool)
        network.accept()
        give_back(pool, waiter)
        assert pool.take_idle() is waiter.stream
        assert pool.take_idle() is None

    def test_a_connection_that_comes_back_is_taken_before_a_new_one(self, network: Network) -> None:
        pool = make(network, "HTTP/1.1")
        (first,) = want(pool)
        network.accept()
        (second,) = want(pool)
        give_back(pool, first)
        assert second.stream is first.stream
        network.accept()
        assert pool.size == 2

    def test_one_that_is_closing_is_not_lent(self, network: Network) -> None:
        pool = make(network, "HTTP/1.1")
        (first,) = want(pool)
        connection = network.accept()
        give_back(pool, first)
        connection.close()
        (second,) = want(pool)
        assert second.waits()
        connection.lose()
        network.accept()
        assert not second.waits()
        assert pool.size == 1

    def test_an_idle_one_that_is_lost_is_forgotten(self, network: Network) -> None:
        pool = make(network, "HTTP/1.1")
        (first,) = want(pool)
        connection = network.accept()
        give_back(pool, first)
        connection.lose()
        assert pool.size == 0
        assert want(pool)[0].waits()


class TestHttp2:
    def test_one_connection_carries_many_requests(self, network: Network) -> None:
        pool = make(network, "HTTP/2")
        waiters = want(pool, 3)
        assert len(network.dials) == 1
        network.accept(streams=3)
        assert len({connection_of(waiter) for waiter in waiters}) == 1

    def test_another_is_opened_when_all_are_full(self, network: Network) -> None:
        pool = make(network, "HTTP/2")
        waiters = want(pool, 5)
        network.accept(streams=2)
        assert [waiter.waits() for waiter in waiters] == [False, False, True, True, True]
        network.accept(streams=2)
        network.accept(streams=2)
        assert not any(waiter.waits() for waiter in waiters)
        assert pool.size == 3

    def test_a_server_that_takes_more_than_it_first_said_is_used(self, network: Network) -> None:
        """Its SETTINGS come after the first requests have gone out."""
        pool = make(network, "HTTP/2", max_connections=1)
        waiters = want(pool, 4)
        connection = network.accept(streams=2)
        connection.most = 100
        (newest,) = want(pool)
        assert not any(waiter.waits() for waiter in (*waiters, newest))

    def test_a_server_that_goes_away_gets_no_more(self, network: Network) -> None:
        pool = make(network, "HTTP/2")
        (first,) = want(pool)
        old = network.accept(streams=10)
        pool.retired(old)
        (second,) = want(pool)
        assert second.waits()
        new = network.accept()
        assert connection_of(second) is new
        assert pool.size == 2
        give_back(pool, first)
        assert old.is_closing
        old.lose()
        assert pool.size == 1

    def test_a_certificate_that_expires_soon_is_counted(self, network: Network) -> None:
        pool = make(network, "HTTP/2")
        told: list[str] = []
        pool.shared.on_drained = told.append
        want(pool, 2)
        for is_aged in (False, True):
            connection = network.accept(streams=10)
            connection.is_aged = is_aged
            pool.retired(connection)
            pool.retired(connection)
            want(pool)
        assert told == ["certificate-age"]

    def test_a_server_that_allows_none_is_not_asked_for_more_connections(self, network: Network) -> None:
        """gRPC servers say MAX_CONCURRENT_STREAMS 0 when they want no calls at present."""
        pool = make(network, "HTTP/2")
        waiters = want(pool, 3)
        barren = network.accept(streams=0)
        error = f"{ADDRESS} accepts no requests at present (SETTINGS_MAX_CONCURRENT_STREAMS is 0)"
        assert [str(waiter.error) for waiter in waiters] == [error] * 3
        for _ in range(10):
            network.wait(10.0)
            assert str(want(pool)[0].error) == error
        assert (pool.size, network.dials) == (1, [])
        barren.most = 1
        (waiter,) = want(pool)
        assert connection_of(waiter) is barren
        assert want(pool)[0].waits()
        assert len(network.dials) == 1

    def test_nor_is_one_that_says_so_and_leaves(self, network: Network) -> None:
        pool = make(network, "HTTP/2")
        want(pool)
        network.accept(streams=0).lose()
        assert want(pool)[0].error
        assert network.dials == []
        network.wait(0.1)
        assert want(pool)[0].waits()

    def test_who_waits_for_the_last_one_that_carries_anything_is_not_forgotten(self, network: Network) -> None:
        pool = make(network, "HTTP/2")
        (holding,) = want(pool)
        network.accept(streams=1)
        waiting = want(pool, 2)
        network.accept(streams=0)
        assert [waiter.waits() for waiter in waiting] == [True, True]
        connection_of(holding).lose()
        assert all(waiter.error for waiter in waiting)

    def test_nor_who_waits_for_one_whose_server_goes_away(self, network: Network) -> None:
        pool = make(network, "HTTP/2")
        (holding,) = want(pool)
        network.accept(streams=1)
        want(pool)
        network.accept(streams=0)
        (waiting,) = want(pool)
        assert waiting.waits()
        pool.retired(connection_of(holding))
        assert waiting.error is not None

    def test_connections_to_a_peer_are_secured(self, network: Network) -> None:
        security: Any = object()
        pool = H2Pool(network.shared, ADDRESS, make(network, "HTTP/2").settings, security)  # type: ignore[arg-type]
        pool.acquire(Wanting())
        assert network.peer is security

    def test_it_grows_old_only_without_streams(self, network: Network) -> None:
        pool = make(network, "HTTP/2")
        first, second = want(pool, 2)
        connection = network.accept()
        give_back(pool, first)
        assert connection.deadline == 0.0
        give_back(pool, second)
        assert connection.deadline == network.now + 60.0


ACTIONS = [
    "want",
    "want",
    "want",
    "accept",
    "refuse",
    "return",
    "withdraw",
    "lose",
    "retire",
    "close",
    "turn",
    "wait",
    "allow",
]
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 5)), max_size=40)


@both
@settings(max_examples=tries(200))
@example(steps=[("want", 0), ("want", 0), ("accept", 1), ("allow", 0)], limit=1)
@given(steps=STEPS, limit=st.sampled_from([1, 2, 1 << 30]))
def test_whatever_happens_nobody_waits_for_nothing(version: str, steps: list[tuple[str, int]], limit: int) -> None:
    network = Network()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools, "connect_h1", network.connect)
        patch.setattr(pools, "connect_h2", network.connect)
        pool = make(network, version, max_connections=limit, max_pending=6)
        waiters: list[Wanting] = []
        using: list[Wanting] = []
        withdrawn: set[Wanting] = set()

        def settle() -> None:
            for waiter in waiters:
                if waiter.stream is not None and waiter not in using and not hasattr(waiter, "is_done"):
                    using.append(waiter)
            for waiter in [waiter for waiter in using if connection_of(waiter).is_closing]:
                using.remove(waiter)
                waiter.is_done = True  # type: ignore[attr-defined]

        def step(what: str, number: int) -> None:
            if what == "want":
                waiters.extend(want(pool))
            elif what == "accept" and network.dials:
                network.accept(streams=number % 4)
            elif what == "refuse" and network.dials:
                network.refuse()
            elif what == "return" and using:
                waiter = using.pop(number % len(using))
                waiter.is_done = True  # type: ignore[attr-defined]
                give_back(pool, waiter)
            elif what == "withdraw":
                waiting = [waiter for waiter in waiters if waiter.waits() and waiter not in withdrawn]
                if waiting:
                    waiter = waiting[number % len(waiting)]
                    pool.withdraw(waiter)
                    withdrawn.add(waiter)
            elif what == "lose" and network.connections:
                network.connections.pop(number % len(network.connections)).lose()
            elif what == "retire" and network.connections and version == "HTTP/2":
                leaving = network.connections[number % len(network.connections)]
                pool.retired(leaving)
                if not leaving.streams:
                    leaving.close()  # as the driver does
            elif what == "close":
                pool.close()
            elif what == "turn":
                network.turn()
            elif what == "wait":
                network.wait(0.06 * number)
            elif what == "allow" and network.connections:
                network.connections[number % len(network.connections)].most = number
            settle()
            assert 0 <= pool.size <= limit
            assert pool.size == len(network.connections) + len(network.dials)
            for connection in [c for c in network.connections if c.is_closing]:
                network.connections.remove(connection)
                connection.lose()

        for what, number in steps:
            step(what, number)
        # Now the server is well and every exchange comes to its end.
        for _ in range(200):
            step("turn", 0)
            step("wait", 5)
            if not network.dials and not using:
                break
            step("accept" if network.dials else "return", 1)
        assert not using
        assert [waiter for waiter in waiters if waiter.waits() and waiter not in withdrawn] == []
        assert all(waiter.waits() for waiter in withdrawn)
        if pool.is_closed:
            assert pool.size == 0
