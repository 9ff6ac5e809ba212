"""Random conversations through everything that carries a request: clients, drivers, the pipeline, pools, model servers.

Only sockets and time are not real. Whatever happens in whatever order, nothing may raise, and when everybody has left,
everything must have been let go: no exchange goes on, nobody waits, no credit is missing, no connection outlives its
time.

As long as nobody garbles what is sent, the following holds too: nothing that is denied arrives anywhere, what arrives
whole is what was sent (with another version, where the route says so), an answer goes to who asked, and a call that may
not be made twice is not.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from random import Random
from typing import Any

import pytest

from meshproxy.codec.events import Data, RequestHead, ResponseHead
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import LocalProtocolError, Role
from meshproxy.config.routes import Abort, Compare, Concurrency, Delay, Fault, Mirror, Retries
from meshproxy.config.servers import BreakerSettings, Key
from meshproxy.identity.tokens import KeysWanted
from meshproxy.inference.grpc_health import CHECK, WATCH, write_request
from meshproxy.proxy.admissions import Admissions
from meshproxy.proxy.snapshot import BodyLimits
from meshproxy.routing.fault import FaultRule
from meshproxy.routing.rate_limit import RateLimiter
from meshproxy.routing.retry import INBOUND_RETRIES, OUTBOUND_RETRIES, RetryRule
from meshproxy.routing.routes import Route, Routes
from meshproxy.routing.split import Arm, Split
from meshproxy.transport.connect_failures import ConnectError
from meshproxy.transport.connection import ConnectionContext, Times
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h1_client import H1Client
from meshproxy.transport.h1_server import H1Server
from meshproxy.transport.h2_client import H2Client
from meshproxy.transport.h2_server import H2Server
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper
from meshproxy.upstream import pool as pools
from meshproxy.upstream.cluster import Cluster, ClusterSettings
from meshproxy.upstream.discovery import EndpointAddress
from meshproxy.upstream.health import CheckSettings, Health
from meshproxy.upstream.pool import PoolSettings
from meshproxy.upstream.serving import HealthService
from tests.thorough import tries

CONVERSATIONS = tries(1_000)
STEPS = 40
CANCEL = 0x8
REFUSED_STREAM = 0x7
PREDICT = b"/tensorflow.serving.PredictionService/Predict"
RELOAD = b"/tensorflow.serving.ModelService/HandleReloadConfigRequest"
VERSION_2 = b"\x12\x02\x08\x02"

POST = b"POST /v1/models/%b:predict HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n%b"
H1_REQUESTS = [
    b"GET /v1/models/open HTTP/1.1\r\nhost: x\r\n\r\n",
    POST % (b"open", b"content-length: 4", b"body"),
    POST % (b"closed", b"transfer-encoding: chunked", b"4\r\nbody\r\n0\r\nt: v\r\n\r\n"),
    POST % (b"open-rich", b"content-length: 4", b"body"),
    POST % (b"open-rich", b"x-envoy-expected-rq-timeout-ms: 200\r\ncontent-length: 4", b"body"),
    POST % (b"open-rich/labels/canary", b"content-length: 4", b"body"),
    POST % (b"open", b"expect: 100-continue\r\ncontent-length: 2", b"{}"),
    POST % (b"open", b"authorization: Bearer good\r\ngrpc-timeout: 1m\r\ncontent-length: 4", b"body"),
    b"HEAD /v1/models/open HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
]
H1_ANSWERS = [
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: v\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nabc",
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\nsorry",
    b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 70000\r\n\r\n" + bytes(70_000),
    b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + bytes(300_000),
]


EVERYTHING: tuple[Any, ...] = (
    "connect-failure", "refused-stream", "goaway", "reset", "unavailable", "gateway-error", "timeout",
)  # fmt: skip
LIMITS = BodyLimits(scan_buffer=1_000, scan_buffer_total=1_500, replay_buffer_total=50_000)


class Socket:
    """A transport that takes everything; what it was given can be taken."""

    def __init__(self) -> None:
        self.written = b""
        self.is_reading = True
        self.is_over = False

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

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


async def dial_h1(shared: Any, address: str, owner: Any, timeout: float, peer: Any = None) -> Any:
    return await Dial("HTTP/1.1", owner)


async def dial_h2(shared: Any, address: str, owner: Any, timeout: float, peer: Any = None) -> Any:
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

    @property
    def is_of_a_request(self) -> bool:
        callback = self.callback.func if isinstance(self.callback, partial) else self.callback
        return ".proxy." in callback.__module__


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

    def call_at(self, when: float, callback: Callable[..., None], *arguments: Any) -> Timer:
        self._timers.append(Timer(when, partial(callback, *arguments) if arguments else callback))
        return self._timers[-1]

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: Any) -> Timer:
        return self.call_at(self.now + delay, callback, *arguments)

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> Dialling:
        return Dialling(self, coroutine)

    def turn(self) -> None:
        while self._ready:
            callback, arguments = self._ready.pop(0)
            callback(*arguments)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self._timers = [timer for timer in self._timers if not timer.is_over]
        for timer in [timer for timer in self._timers if timer.when() <= self.now]:
            if not timer.is_over:
                timer.cancel()
                timer.callback()


class Client:
    """A connection of a client of either version, and our server at its end."""

    def __init__(self, chain: Chain, version: str) -> None:
        info = ConnectionInfo(direction="inbound", protocol=version, remote="127.0.0.1:1", local="127.0.0.1:2")
        driver = H1Server if version == "HTTP/1.1" else H2Server
        self.socket = Socket()
        self.server = driver(chain.shared, info, chain.world.pipeline.serve, chain.world.pipeline.reject)
        self.server.attach(self.socket)  # type: ignore[arg-type]
        # Some take only small heads, or none: SETTINGS_MAX_HEADER_LIST_SIZE.
        limits = Limits(header_bytes=chain.random.choice([65_536, 65_536, 65_536, 120, 0]))
        self._codec = H2Connection(Role.CLIENT, limits, 0.0) if version == "HTTP/2" else None
        self._asked: dict[int, bytes] = {}
        """What was asked on which stream."""

    def listen(self, chain: Chain) -> None:
        """Read what has come."""
        if self._codec is None:
            self.socket.take()
            return
        for event in self._codec.receive(self.socket.take(), 0.0):
            if isinstance(event, Data) and chain.random.random() < 0.8:
                self._codec.credit(event.stream, event.flow)
            elif isinstance(event, ResponseHead) and not chain.is_noisy:
                answered = dict(event.headers).get(b"x-id")
                assert answered in (None, self._asked[event.stream]), "an answer went to somebody else"
        data = self._codec.take_output()
        if data and self.socket.is_reading and not self.socket.is_over:
            self.server.data_received(data)

    def ask(self, chain: Chain) -> None:
        random = chain.random
        if self._codec is None:
            data = random.choice(H1_REQUESTS)
        else:
            for _ in range(random.randint(1, 4)):
                if self._codec.can_open:
                    self._ask_h2(chain, self._codec)
            data = self._codec.take_output()
        if chain.is_noisy and random.random() < 0.3 and data:
            at = random.randrange(len(data))
            data = data[:at] + bytes([random.randrange(256)]) + data[at + random.randint(0, 2) :]
        step = max(1, len(data) // random.choice([1, 1, 3, 7]))
        for start in range(0, len(data), step):
            if self.socket.is_reading and not self.socket.is_over:
                self.server.data_received(data[start : start + step])

    def _ask_h2(self, chain: Chain, codec: H2Connection) -> None:
        random = chain.random
        target = random.choice([PREDICT] * 5 + [b"/v1/models/%b:predict"] * 4 + [RELOAD, RELOAD, CHECK, WATCH])
        is_grpc = not target.startswith(b"/v1")
        name = random.choice([b"open", b"open", b"closed", b"open-elsewhere", b"open-rich", b"open-rich"])
        number = chain.number(target, name)
        headers = [(b"x-id", number)]
        if is_grpc:
            headers.append((b"content-type", b"application/grpc"))
        if random.random() < 0.2:
            headers.append((b"authorization", b"Bearer good"))
        if random.random() < 0.3:
            headers.append((b"grpc-timeout", random.choice([b"1m", b"200m", b"9S"])))
        end = random.random() < 0.1
        stream = codec.send_request(b"POST", b"https", b"x", target.replace(b"%b", name), tuple(headers), end)
        self._asked[stream] = number
        if end:
            return
        tensor = chain.wire.tensor(random.choice([3, 300, 40_000]))
        if target == RELOAD:
            message = chain.wire.framed(b"")
        elif target in (CHECK, WATCH):
            message = write_request(random.choice(["", "open", "closed"]))
        else:
            message = chain.wire.framed(chain.wire.spec(name) + tensor)
            spec = chain.wire.spec(name)
            versioned = bytes([spec[0], spec[1] + len(VERSION_2)]) + spec[2:] + VERSION_2
            chain.sent[number] = (message, chain.wire.framed(versioned + tensor))
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
        self._chain = chain
        info = ConnectionInfo(direction="upstream", protocol=dial.kind, remote="127.0.0.1:3", local="")
        driver: Any = H1Client if dial.kind == "HTTP/1.1" else H2Client
        self.socket = Socket()
        self.client = driver(chain.upstream_shared, info, dial.owner)
        self.client.attach(self.socket)
        self.is_lost = False
        self._codec = H2Connection(Role.SERVER, Limits(streams=3), 0.0) if dial.kind == "HTTP/2" else None
        self._streams: list[int] = []
        self._headed: set[int] = set()
        """Those whose answer has begun with a head alone."""
        self._asked: dict[int, RequestHead] = {}
        self._bodies: dict[int, bytes] = {}
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
                self._asked[event.stream] = event
                self._bodies[event.stream] = b""
                self._chain.arrived(self._number(event.stream))
            if isinstance(event, Data):
                codec.credit(event.stream, event.flow)
                self._bodies[event.stream] += event.data
                if event.end:
                    self._chain.arrived_whole(self._number(event.stream), self._bodies[event.stream])

    def _number(self, stream: int) -> bytes:
        return dict(self._asked[stream].headers).get(b"x-id", b"")

    def _answer_h2(self, random: Random, codec: H2Connection, stream: int) -> None:
        head = self._asked[stream]
        number = (b"x-id", self._number(stream))
        is_grpc = not head.target.startswith(b"/v1")
        headers = (number, (b"content-type", b"application/grpc")) if is_grpc else (number,)
        size = random.choice([5, 5, 70_000, 300_000])
        how = random.choice(["reset", "refused", "busy", "busy late", "whole", "whole", "whole", "endless", "head"])
        if is_grpc and stream not in self._headed and random.random() < 0.2:
            how = "early"
        try:
            if how == "early":  # the rest comes later, perhaps when more of the request has come
                codec.send_response(stream, 200, headers, end=False)
                self._headed.add(stream)
                self._streams.append(stream)
            elif how == "reset":
                codec.reset(stream, random.choice([0, 2, CANCEL]))
            elif how == "refused":
                codec.reset(stream, REFUSED_STREAM)
                self._chain.refused(number[1])
            elif how == "head":
                codec.send_response(stream, 200, headers, end=True)
            elif not is_grpc:
                codec.send_response(stream, 200 if how == "whole" else 503, headers, end=False)
                codec.send_data(stream, bytes(size), end=how != "endless")
            elif how == "busy":
                codec.send_response(stream, 200, (*headers, (b"grpc-status", random.choice([b"14", b"8"]))), end=True)
            else:
                if stream not in self._headed:
                    codec.send_response(stream, 200, headers, end=False)
                if how != "busy late":
                    codec.send_data(stream, bytes(size), end=False)
                if how != "endless":
                    codec.send_trailers(stream, ((b"grpc-status", b"0" if how == "whole" else b"14"),))
        except LocalProtocolError:
            pass  # it has answered that before

    def lose(self) -> None:
        if not self.is_lost:
            self.is_lost = self.socket.is_over = True
            self.client.connection_lost(None)


class Unwatched:
    def circuit(self, *what: Any) -> None: ...
    def ejected(self, *what: Any) -> None: ...
    def connect_failed(self, *what: Any) -> None: ...
    def endpoints(self, *what: Any) -> None: ...


class Chain:
    """The whole of it, and what may happen to it."""

    def __init__(self, world: Any, wire: Any, random: Random, version: str) -> None:
        self.world, self.wire, self.random, self.version = world, wire, random, version
        self.loop = Loop()
        self.reaper = Reaper(self.loop)  # type: ignore[arg-type]
        outbox = Outbox(self.loop)  # type: ignore[arg-type]

        def shared(limits: Limits) -> ConnectionContext:
            return ConnectionContext(
                loop=self.loop,  # type: ignore[arg-type]
                outbox=outbox,
                reaper=self.reaper,
                limits=limits,
                times=Times(),
                on_limit=world.limits_hit.append,
            )

        self.shared = shared(Limits(body_bytes=random.choice([None, None, None, None, None, 3, 1_000])))
        self.upstream_shared = shared(Limits())
        self._settings = ClusterSettings(
            PoolSettings(
                connect_timeout=1.0,
                max_connections=random.choice([1, 2, 1 << 30]),
                max_pending=random.choice([1, 100]),
                idle_timeout=60.0,
            ),
            breaker=random.choice(
                [BreakerSettings(enabled=False), BreakerSettings(), BreakerSettings(consecutive_failures=1)]
            ),
        )
        self._endpoints = random.choice([1, 2, 3])
        self._has_sidecars = random.random() < 0.3
        self._routes = Routes(
            self._route("", rich=random.random() < 0.3),
            [("open-elsewhere", (), Route("r", "other")), ("open-rich", (), self._route("rich", rich=True))],
        )
        self.is_noisy = random.random() < 0.4
        """Some of what clients send is garbled: what arrives is anybody's guess."""
        self._is_lively = random.random() < 0.5
        """Model servers are quick."""
        self._numbers = 0
        self._once: set[bytes] = set()
        self._denied: set[bytes] = set()
        self._counts: Counter[bytes] = Counter()
        self.sent: dict[bytes, tuple[bytes, bytes]] = {}
        """Bodies, as they were sent and with version 2 written into them."""
        world.pipeline.draw = random.random
        world.pipeline.admissions = Admissions(self.reaper)
        world.pipeline.loop = self.loop
        world.pipeline.now = self.loop.time
        self.reaper.watch(world.pipeline.live)
        if random.random() < 0.15:
            world.verifier.raises = KeysWanted("corp")
        self.clusters: dict[str, Cluster] = {}
        self.old: list[Cluster] = []
        self.services: list[HealthService] = []
        self.clients: list[Client] = []
        self.servers: list[ModelServer] = []
        self.reload()

    def _route(self, name: str, *, rich: bool) -> Route:
        random = self.random
        retry = random.choice(
            [
                INBOUND_RETRIES,
                OUTBOUND_RETRIES,
                RetryRule(Retries(hedge_after=0.05, replay_bytes=random.choice([9, 1 << 20]), reasons=EVERYTHING)),
                RetryRule(Retries(attempts=5, reasons=EVERYTHING)),
            ]
        )
        fields: dict[str, Any] = {}
        if rich:
            mirror = Mirror(server="other", max_in_flight=2, compare=random.choice([None, Compare()]), max_bytes=1_000)
            fault = FaultRule(Fault(delay=Delay(percent=30, duration=0.1), abort=Abort(percent=10)))
            concurrency = Concurrency(
                limit=random.choice([1, 2, None]), queue=random.choice([0, 1, 3]), queue_timeout=0.5, initial=2
            )
            fields = {
                "split": random.choice([None, Split([Arm(1), Arm(1, "other", "2")])]),
                "labels": random.choice([{}, {"canary": "2"}]),
                "sticky": random.choice([None, Key(), Key(by="client-id")]),
                "mirror": random.choice([None, mirror]),
                "fault": random.choice([None, fault]),
                "fallback": random.choice([None, Arm(1, "other")]),
                "timeout": random.choice([None, 0.5, 10.0]),
                "try_timeout": random.choice([None, 0.1]),
                "idle_timeout": random.choice([None, 1.0]),
                "concurrency": random.choice([None, concurrency]),
                "rate_limiters": random.choice([(), (RateLimiter("caller", 50.0, 100_000.0, 50.0, 0.1),)]),
                "counts_examples": random.random() < 0.5,
                "priority": random.randrange(3),
            }
        return Route(name, "main", retry=retry, **fields)

    # What clients and model servers find out

    def number(self, target: bytes, name: bytes) -> bytes:
        """A number for a request."""
        self._numbers += 1
        number = b"%d" % self._numbers
        if target == RELOAD:
            self._once.add(number)
        elif name == b"closed" and target not in (CHECK, WATCH):
            self._denied.add(number)
        return number

    def arrived(self, number: bytes) -> None:
        """A model server has read a request's head."""
        self._counts[number] += 1
        if number and not self.is_noisy:
            assert number not in self._denied, "what was denied has arrived"
            assert number not in self._once or self._counts[number] == 1, "a call was made twice that may not be"

    def arrived_whole(self, number: bytes, body: bytes) -> None:
        """And all of its body."""
        if not self.is_noisy and number in self.sent:
            assert body in self.sent[number], "something else has arrived than was sent"

    def refused(self, number: bytes) -> None:
        """It said that it has not looked at it."""
        self._counts[number] -= 1

    def step(self) -> None:
        """Something happens, and then what follows from it."""
        actions = {
            self.connect: 1 if self.clients else 100,
            self.ask: 10,
            self.listen: 3,
            self.stop_or_go_on_reading: 4,
            self.dial: 8,
            self.answer: 10,
            self.break_upstream: 1,
            self.know_keys: 1,
            self.wait: 1,
            self.wait_a_moment: 6,
            self.leave: 1,
            self.reload: 1,
            self.change_health: 1,
        }
        (action,) = self.random.choices(list(actions), list(actions.values()))
        action()
        self.settle()
        if self._is_lively:
            for action in (self.dial, self.answer, self.listen):
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

    def listen(self) -> None:
        if self.clients:
            self.random.choice(self.clients).listen(self)

    def stop_or_go_on_reading(self) -> None:
        ends: list[Any] = [client.server for client in self.clients]
        ends += [server.client for server in self.servers if not server.is_lost]
        if ends:
            end = self.random.choice(ends)
            if end.is_paused:
                end.resume_writing()
            else:
                end.pause_writing()

    def dial(self) -> None:
        for dialling in self.random.sample(self.loop.dials, self.random.randint(0, len(self.loop.dials))):
            if self.random.random() < 0.2:
                dialling.end(ConnectError("refused"))
                continue
            server = ModelServer(self, dialling.dial)
            self.servers.append(server)
            if self.random.random() < 0.1:
                server.lose()
            dialling.end(server.client)

    def answer(self) -> None:
        for server in self.random.sample(self.servers, self.random.randint(0, len(self.servers))):
            server.answer(self.random)

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

    def wait_a_moment(self) -> None:
        self.loop.advance(self.random.choice([0.01, 0.05, 0.2]))
        self.reaper.sweep(self.loop.now)

    def change_health(self) -> None:
        for cluster in self.clusters.values():
            for endpoint in cluster.endpoints.values():
                if endpoint.health is not None:
                    model = self.random.choice([None, "open", "open-rich"])
                    endpoint.health.record(model, self.random.random() < 0.7, self.loop.now)
        self.services[-1].changed()

    def leave(self) -> None:
        if self.clients:
            client = self.random.choice(self.clients)
            ways: list[Callable[[], object]] = [client.server.eof_received, client.server.drain, client.socket.abort]
            self.random.choice(ways)()

    def reload(self) -> None:
        old = self.clusters
        self.clusters = {
            name: Cluster(self.upstream_shared, name, self._settings, Unwatched(), chance=self.random)
            for name in ("main", "other")
        }
        for cluster in self.clusters.values():
            places = range(self._endpoints)
            if self._has_sidecars:
                cluster.set_endpoints([EndpointAddress(sidecar=f"127.0.0.1:85{n}2") for n in places])
            else:
                cluster.set_endpoints([EndpointAddress(f"127.0.0.1:85{n}1", f"127.0.0.1:85{n}0") for n in places])
            if self.random.random() < 0.3:
                for endpoint in cluster.endpoints.values():
                    endpoint.health = Health(CheckSettings(("open", "open-rich")))
        if self.services:
            self.services[-1].drain()
        self.services.append(HealthService(self.clusters["main"]))
        self.world.use(clusters=self.clusters, routes=self._routes, health=self.services[-1], limits=LIMITS)
        for cluster in old.values():
            cluster.close()
            self.old.append(cluster)

    def end(self) -> None:
        """Every client leaves, and what was waited for comes too late."""
        for client in self.clients:
            client.socket.abort()
        self.settle()
        while self.world.refreshes:
            self.world.refreshes.pop()[1]()
        self.settle()
        self.world.pipeline.mirrors.close()
        self.settle()

    def check(self) -> None:
        world = self.world
        pipeline = world.pipeline
        assert pipeline.live == set()
        assert (pipeline.scan_buffer.total, pipeline.replay_bytes, pipeline.response_buffer.total) == (0, 0, 0)
        assert (len(pipeline.scan_buffer), len(pipeline.response_buffer)) == (0, 0)
        assert (pipeline.mirrors.in_flight, pipeline.mirrors.live) == ({}, set())
        for _, _, admission in pipeline.admissions.rows():
            assert (admission.in_flight, admission.waiting) == (0, 0)
        assert all(not service._watching for service in self.services)
        assert [timer for timer in self.loop._timers if timer.is_of_a_request and not timer.is_over] == []
        for cluster in self.old:
            assert all(endpoint.load.in_flight == 0 for endpoint in cluster.endpoints.values())
        assert len(world.finished) == world.pipeline.served
        world.assert_times_add_up()
        clusters = len(self.clusters)
        clusters += bool(list(pipeline.admissions.rows()))
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
                assert codec._room + codec._owed == connection.shared.limits.connection_window


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
            for _ in range(random.randint(1, STEPS)):
                chain.step()
            chain.end()
            chain.check()
            assert caplog.text == ""
        except Exception as error:
            error.add_note(f"in conversation {seed}")
            raise
