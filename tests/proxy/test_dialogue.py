"""Random conversations through everything that carries a request: clients, drivers, the pipeline, pools, model servers.

Only sockets and time are not real. Whatever happens in whatever order, nothing may raise, and when everybody has left,
everything must have been let go: no exchange goes on, nobody waits, no credit is missing, no connection outlives its
time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from random import Random
from typing import Any

import pytest

from meshproxy.codec.events import Data, RequestHead
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import LocalProtocolError, Role
from meshproxy.config.routes import Retries
from meshproxy.identity.tokens import KeysWanted
from meshproxy.routing.retry import INBOUND_RETRIES, OUTBOUND_RETRIES, RetryRule
from meshproxy.routing.routes import Route, Routes
from meshproxy.transport.connection import Driving, Times
from meshproxy.transport.connector import ConnectError
from meshproxy.transport.facts import ConnectionFacts
from meshproxy.transport.h1 import H1Client, H1Server
from meshproxy.transport.h2 import H2Client, H2Server
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper
from meshproxy.upstream import pool as pools
from meshproxy.upstream.breaker import BreakerSettings
from meshproxy.upstream.cluster import Cluster, ClusterSettings
from meshproxy.upstream.discovery import Found

CONVERSATIONS = 1_000
CANCEL = 0x8
PREDICT = b"/tensorflow.serving.PredictionService/Predict"

POST = b"POST /v1/models/%b:predict HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n%b"
H1_REQUESTS = [
    b"GET /v1/models/open HTTP/1.1\r\nhost: x\r\n\r\n",
    POST % (b"open", b"content-length: 4", b"body"),
    POST % (b"closed", b"transfer-encoding: chunked", b"4\r\nbody\r\n0\r\nt: v\r\n\r\n"),
    POST % (b"open", b"expect: 100-continue\r\ncontent-length: 2", b"{}"),
    POST % (b"open", b"authorization: Bearer good\r\ngrpc-timeout: 1m\r\ncontent-length: 4", b"body"),
    b"HEAD /v1/models/open HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
]
H1_ANSWERS = [
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: v\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nabc",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 70000\r\n\r\n" + bytes(70_000),
    b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + bytes(300_000),
]


class Socket:
    """A transport that takes everything; what it was given can be taken."""

    def __init__(self) -> None:
        self.written = b""
        self.is_reading = True
        self.is_over = False

    def write(self, data: bytes) -> None:
        self.written += data

    def take(self) -> bytes:
        data, self.written = self.written, b""
        return data

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def is_closing(self) -> bool:
        return self.is_over

    def abort(self) -> None:
        self.is_over = True

    close = abort

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None: ...
    def set_write_buffer_limits(self, high: int) -> None: ...


class Dial:
    """An attempt to connect, which waits for the conversation."""

    def __init__(self, kind: str, owner: Any) -> None:
        self.kind = kind
        self.owner = owner

    def __await__(self) -> Generator[Dial, Any, Any]:
        return (yield self)


async def dial_h1(driving: Any, address: str, owner: Any, timeout: float) -> Any:
    return await Dial("HTTP/1.1", owner)


async def dial_h2(driving: Any, address: str, owner: Any, timeout: float, peer: Any = None) -> Any:
    return await Dial("HTTP/2", owner)


class Dialling:
    """The task of an attempt."""

    def __init__(self, loop: Loop, coroutine: Coroutine[Any, Any, None]) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._callbacks: list[Callable[[Dialling], None]] = []
        self.is_cancelled = False
        self.dial: Dial = coroutine.send(None)
        loop.dials.append(self)

    def add_done_callback(self, callback: Callable[[Dialling], None]) -> None:
        self._callbacks.append(callback)

    def cancel(self) -> None:
        self.is_cancelled = True

    def end(self, result: Any) -> None:
        self._loop.dials.remove(self)
        try:
            if isinstance(result, BaseException):
                self._coroutine.throw(result)
            else:
                self._coroutine.send(result)
        except (StopIteration, asyncio.CancelledError):
            for callback in self._callbacks:
                callback(self)


class Timer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self._when = when
        self.callback = callback
        self.is_over = False

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.is_over = True


class Loop:
    """Time is a number; what is to happen soon waits for `turn`."""

    def __init__(self) -> None:
        self.now = 100.0
        self.dials: list[Dialling] = []
        self._ready: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., Any], *arguments: Any) -> None:
        self._ready.append((callback, arguments))

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self._timers.append(Timer(when, callback))
        return self._timers[-1]

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> Dialling:
        return Dialling(self, coroutine)

    def turn(self) -> None:
        while self._ready:
            callback, arguments = self._ready.pop(0)
            callback(*arguments)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer in self._timers if timer.when() <= self.now and not timer.is_over]:
            if not timer.is_over:
                timer.cancel()
                timer.callback()


class Client:
    """A connection of a client of either version, and our server at its end."""

    def __init__(self, chain: Chain, version: str) -> None:
        facts = ConnectionFacts(direction="inbound", protocol=version, remote="127.0.0.1:1", local="127.0.0.1:2")
        driver = H1Server if version == "HTTP/1.1" else H2Server
        self.socket = Socket()
        self.server = driver(chain.driving, facts, chain.world.pipeline.serve, chain.world.pipeline.reject)
        self.server.attach(self.socket)  # type: ignore[arg-type]
        self._codec = H2Connection(Role.CLIENT, Limits(), 0.0) if version == "HTTP/2" else None

    def ask(self, chain: Chain) -> None:
        random = chain.random
        if self._codec is None:
            data = random.choice(H1_REQUESTS)
        else:
            for _ in range(random.randint(1, 4)):
                if self._codec.can_open:
                    self._ask_h2(chain, self._codec)
            data = self._codec.take_output()
        if random.random() < 0.15 and data:
            at = random.randrange(len(data))
            data = data[:at] + bytes([random.randrange(256)]) + data[at + random.randint(0, 2) :]
        step = max(1, len(data) // random.choice([1, 1, 3, 7]))
        for start in range(0, len(data), step):
            if self.socket.is_reading and not self.socket.is_over:
                self.server.data_received(data[start : start + step])

    def _ask_h2(self, chain: Chain, codec: H2Connection) -> None:
        random = chain.random
        is_grpc = random.random() < 0.6
        headers = [(b"content-type", b"application/grpc")] if is_grpc else []
        if random.random() < 0.2:
            headers.append((b"authorization", b"Bearer good"))
        if random.random() < 0.2:
            headers.append((b"grpc-timeout", b"1m"))
        end = random.random() < 0.2
        name = random.choice([b"open", b"open", b"closed", b"open-elsewhere"])
        target = PREDICT if is_grpc else b"/v1/models/" + name + b":predict"
        stream = codec.send_request(b"POST", b"https", b"x", target, tuple(headers), end)
        if end:
            return
        message = chain.wire.framed(chain.wire.spec(name) + chain.wire.tensor(random.choice([3, 300, 40_000])))
        cut = random.randrange(len(message) + 1)
        codec.send_data(stream, message[:cut], end=False)
        chance = random.random()
        if chance < 0.7:
            codec.send_data(stream, message[cut:], end=True)
        elif chance < 0.85:
            codec.reset(stream, CANCEL)


class ModelServer:
    """A connection of ours to a model server, and the server at its end."""

    def __init__(self, chain: Chain, dial: Dial) -> None:
        facts = ConnectionFacts(direction="upstream", protocol=dial.kind, remote="127.0.0.1:3", local="")
        driver: Any = H1Client if dial.kind == "HTTP/1.1" else H2Client
        self.socket = Socket()
        self.client = driver(chain.upstream_driving, facts, dial.owner)
        self.client.attach(self.socket)
        self.is_lost = False
        self._codec = H2Connection(Role.SERVER, Limits(streams=3), 0.0) if dial.kind == "HTTP/2" else None
        self._streams: list[int] = []
        self._pending = b""

    def answer(self, random: Random) -> None:
        if self._codec is None:
            self._pending = random.choice(H1_ANSWERS)
            if random.random() < 0.3:
                self._pending = self._pending[: random.randrange(len(self._pending))]
        else:
            self._read(self._codec)
            if self._streams and random.random() < 0.8:
                self._answer_h2(random, self._codec, self._streams.pop(random.randrange(len(self._streams))))
            elif random.random() < 0.3:
                self._codec.go_away(final=random.random() < 0.5)
            self._pending += self._codec.take_output()
        if self.socket.is_reading and not self.socket.is_over:
            data, self._pending = self._pending, b""
            self.client.data_received(data)
        if self._codec is not None:
            self._read(self._codec)

    def _read(self, codec: H2Connection) -> None:
        for event in codec.receive(self.socket.take(), 0.0):
            if isinstance(event, RequestHead):
                self._streams.append(event.stream)
            if isinstance(event, Data):
                codec.credit(event.stream, event.flow)

    def _answer_h2(self, random: Random, codec: H2Connection, stream: int) -> None:
        chance = random.random()
        try:
            if chance < 0.15:
                codec.reset(stream, random.choice([0, 2, 7, CANCEL]))
                return
            codec.send_response(stream, 200, ((b"content-type", b"application/grpc"),), end=chance < 0.3)
            if chance >= 0.3:
                codec.send_data(stream, bytes(random.choice([5, 70_000, 300_000])), end=False)
                if chance < 0.9:
                    codec.send_trailers(stream, ((b"grpc-status", b"0"),))
        except LocalProtocolError:
            pass  # it has answered that before

    def lose(self) -> None:
        if not self.is_lost:
            self.is_lost = self.socket.is_over = True
            self.client.connection_lost(None)


class Unwatched:
    def circuit(self, *what: Any) -> None: ...
    def ejected(self, *what: Any) -> None: ...
    def endpoints(self, *what: Any) -> None: ...


class Chain:
    """The whole of it, and what may happen to it."""

    def __init__(self, world: Any, wire: Any, random: Random, version: str) -> None:
        self.world, self.wire, self.random, self.version = world, wire, random, version
        self.loop = Loop()
        self.reaper = Reaper(self.loop)  # type: ignore[arg-type]
        outbox = Outbox(self.loop)  # type: ignore[arg-type]

        def driving(limits: Limits) -> Driving:
            return Driving(
                loop=self.loop,  # type: ignore[arg-type]
                outbox=outbox,
                reaper=self.reaper,
                limits=limits,
                times=Times(),
                on_limit=world.limits_hit.append,
            )

        self.driving = driving(Limits(body_bytes=random.choice([None, None, 3, 1_000])))
        self.upstream_driving = driving(Limits())
        self._settings = ClusterSettings(
            connect_timeout=1.0,
            max_connections=random.choice([1, 2, 1 << 30]),
            max_pending=random.choice([1, 100]),
            idle_timeout=60.0,
            breaker=random.choice([None, BreakerSettings(), BreakerSettings(consecutive_failures=1)]),
        )
        self._endpoints = random.choice([1, 2, 3])
        retry = random.choice([INBOUND_RETRIES, OUTBOUND_RETRIES, RetryRule(Retries(hedge_after=0.05, replay_bytes=9))])
        self._routes = Routes(Route("", "main", retry=retry), [("open-elsewhere", (), Route("r", "other"))])
        world.pipeline.loop = self.loop
        world.pipeline.now = self.loop.time
        world.pipeline.reaper = self.reaper
        if random.random() < 0.15:
            world.verifier.raises = KeysWanted("corp")
        self.clusters: dict[str, Cluster] = {}
        self.clients: list[Client] = []
        self.servers: list[ModelServer] = []
        self.reload()

    def step(self) -> None:
        """Something happens, and then what follows from it."""
        actions = {
            self.connect: 1 if self.clients else 100,
            self.ask: 10,
            self.stop_or_go_on_reading: 4,
            self.dial: 5,
            self.answer: 6,
            self.break_upstream: 2,
            self.know_keys: 1,
            self.wait: 2,
            self.leave: 1,
            self.reload: 1,
        }
        (action,) = self.random.choices(list(actions), list(actions.values()))
        action()
        self.settle()

    def settle(self) -> None:
        self.loop.turn()
        for dialling in [dialling for dialling in self.loop.dials if dialling.is_cancelled]:
            dialling.end(asyncio.CancelledError())
        for server in self.servers:
            if server.socket.is_over:
                server.lose()
        for client in [client for client in self.clients if client.socket.is_over]:
            self.clients.remove(client)
            client.server.connection_lost(None)
        self.loop.turn()

    def connect(self) -> None:
        self.clients.append(Client(self, self.version))

    def ask(self) -> None:
        if self.clients:
            self.random.choice(self.clients).ask(self)

    def stop_or_go_on_reading(self) -> None:
        ends: list[Any] = [client.server for client in self.clients]
        ends += [server.client for server in self.servers if not server.is_lost]
        if ends:
            end = self.random.choice(ends)
            if end._is_paused:
                end.resume_writing()
            else:
                end.pause_writing()

    def dial(self) -> None:
        if self.loop.dials:
            dialling = self.random.choice(self.loop.dials)
            if self.random.random() < 0.2:
                dialling.end(ConnectError("refused"))
                return
            server = ModelServer(self, dialling.dial)
            self.servers.append(server)
            if self.random.random() < 0.1:
                server.lose()
            dialling.end(server.client)

    def answer(self) -> None:
        if self.servers:
            self.random.choice(self.servers).answer(self.random)

    def break_upstream(self) -> None:
        standing = [server for server in self.servers if not server.is_lost]
        if standing:
            server = self.random.choice(standing)
            if self.random.random() < 0.5:
                server.client.eof_received()
            else:
                server.lose()

    def know_keys(self) -> None:
        if self.world.refreshes:
            if self.random.random() < 0.8:
                self.world.verifier.raises = None
            self.world.refreshes.pop()[1]()

    def wait(self) -> None:
        self.loop.advance(self.random.choice([0.1, 3, 40, 80]))
        self.reaper.sweep(self.loop.now)

    def leave(self) -> None:
        if self.clients:
            client = self.random.choice(self.clients)
            self.random.choice([client.server.eof_received, client.server.drain, client.socket.abort])()

    def reload(self) -> None:
        old = self.clusters
        self.clusters = {
            name: Cluster(self.upstream_driving, name, self._settings, Unwatched(), chance=self.random)
            for name in ("main", "other")
        }
        for cluster in self.clusters.values():
            cluster.set_endpoints([Found(f"127.0.0.1:85{n}1", f"127.0.0.1:85{n}0") for n in range(self._endpoints)])
        self.world.use(clusters=self.clusters, routes=self._routes)
        for cluster in old.values():
            cluster.close()

    def end(self) -> None:
        """Every client leaves, and what was waited for comes too late."""
        for client in self.clients:
            client.socket.abort()
        self.settle()
        while self.world.refreshes:
            self.world.refreshes.pop()[1]()
        self.settle()

    def check(self) -> None:
        world = self.world
        assert world.pipeline.live == set()
        assert world.pipeline.held_bytes == 0
        assert world.pipeline.kept_bytes == 0
        assert len(world.finished) == world.pipeline.served
        clusters = len(self.clusters)
        assert len(self.reaper) == sum(not server.is_lost for server in self.servers) + clusters
        for cluster in self.clusters.values():
            for endpoint in cluster.endpoints.values():
                assert endpoint.load.in_flight == 0
                self.check_pool(endpoint.rest)
                self.check_pool(endpoint.grpc)
            cluster.close()
        for _ in range(2):
            self.loop.advance(1_000)
            self.reaper.sweep(self.loop.now)
            self.settle()
        assert all(server.is_lost for server in self.servers), "a connection outlives its time"

    def check_pool(self, pool: Any) -> None:
        assert not pool._waiting
        assert pool.size == len(pool._connections) + pool._opening
        for connection in pool._connections:
            if isinstance(connection, H1Client):
                assert connection in pool._idle
                assert connection._is_reading
                assert connection.sink is None
            else:
                codec = connection.codec
                assert not connection.streams
                assert codec._room + codec._owed == connection.driving.limits.connection_window


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_whatever_happens_everything_is_let_go(
    world: Any, wire: Any, version: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pools, "connect_h1", dial_h1)
    monkeypatch.setattr(pools, "connect_h2", dial_h2)
    caplog.set_level(logging.ERROR)
    for seed in range(CONVERSATIONS):
        # Not hypothesis: it looks for simple cases, and these take many steps that fit together.
        random = Random(seed)
        chain = Chain(type(world)(), wire, random, version)
        try:
            for _ in range(random.randint(1, 30)):
                chain.step()
            chain.end()
            chain.check()
            assert caplog.text == ""
        except Exception as error:
            error.add_note(f"in conversation {seed}")
            raise
