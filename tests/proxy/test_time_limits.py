"""How late the time limits are that the reaper keeps, whatever a document says, and at whatever moment they begin."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshproxy.codec.events import ResponseHead
from meshproxy.config.routes import Concurrency
from meshproxy.proxy.client_side import LOOKS
from tests.proxy.conftest import World, framed, spec
from tests.thorough import tries

LIMITS = st.floats(0.001, 2.0) | st.sampled_from([0.001, 0.05, 0.1, 0.2, 0.25, 0.3, 1.0, 30.0])
MOMENTS = st.floats(0.0, 1.0)
FEW = settings(max_examples=tries(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])


def start_reaper(world: World, shortest: float) -> None:
    world.reaper.keep(shortest)
    world.reaper.start()


def assert_in_time(world: World, limit: float) -> None:
    """The first exchange that ends does so `limit` seconds from now, as exactly as docs/behaviour.md promises."""
    due = world.loop.now + limit
    world.loop.advance(2 * limit + 1)
    late = world.finished[0].finished - due
    assert -1e-6 <= late <= max(0.1 * limit, 0.025)


@given(limit=LIMITS, start=MOMENTS, pause=MOMENTS)
@FEW
def test_a_request_body_that_stops_coming(limit: float, start: float, pause: float) -> None:
    world = World()
    world.use(limits=msgspec.structs.replace(world.snapshot.limits, stall=limit))
    start_reaper(world, limit / LOOKS)
    world.loop.advance(start)
    client = world.rest(body=None, length=10)
    world.loop.advance(0.9 * pause * limit)
    client.receive(b"abc", False)
    assert_in_time(world, limit)
    assert world.limits_hit == ["body_stall_time"]


@given(limit=LIMITS, start=MOMENTS, pause=MOMENTS)
@FEW
def test_a_response_that_stops_coming(limit: float, start: float, pause: float) -> None:
    world = World()
    cluster = world.serve(idle_timeout=limit)
    start_reaper(world, limit / LOOKS)
    world.loop.advance(start)
    world.rest()
    (server,) = cluster.streams
    server.reader.head_received(ResponseHead(0, 200, (), end=False))
    world.loop.advance(0.9 * pause * limit)
    server.reader.data_received(b"piece", 5, False)
    assert_in_time(world, limit)
    assert str(world.finished[0].flags) == "SI"


@given(limit=LIMITS, start=MOMENTS, pause=MOMENTS)
@FEW
def test_a_response_that_stops_coming_behind_its_first_message(limit: float, start: float, pause: float) -> None:
    """The head of a gRPC response, which may come much earlier, begins nothing."""
    world = World()
    cluster = world.serve(idle_timeout=limit)
    start_reaper(world, limit / LOOKS)
    client = world.grpc(None)
    client.receive(framed(spec(b"open")), False)
    (server,) = cluster.streams
    world.loop.advance(start)
    server.reader.head_received(ResponseHead(0, 200, (), end=False))
    assert client.status == 200
    world.loop.advance(5 * pause)
    server.reader.data_received(b"piece", 5, False)
    assert_in_time(world, limit)
    assert str(world.finished[0].flags) == "SI"


@given(limit=LIMITS, start=MOMENTS, pause=MOMENTS)
@FEW
def test_a_response_that_nobody_reads(limit: float, start: float, pause: float) -> None:
    """What the client takes of it counts, also while nothing new is sent."""
    world = World()
    world.use(limits=msgspec.structs.replace(world.snapshot.limits, stall=limit))
    start_reaper(world, limit / LOOKS)
    world.loop.advance(start)
    client: Any = world.rest()
    client.is_full = True
    client.unread = 1_000
    world.cluster.streams[0].respond(b"x" * 1_000)
    world.loop.advance(0.9 * pause * limit)
    client.unread = 500
    assert_in_time(world, limit)
    assert str(world.finished[0].flags) == "DT"


@given(limit=LIMITS, start=MOMENTS)
@FEW
def test_a_wait_in_the_queue(limit: float, start: float) -> None:
    world = World()
    world.serve(concurrency=Concurrency(limit=1, queue=2, queue_timeout=limit))
    start_reaper(world, limit)
    world.rest()
    world.loop.advance(start)
    world.rest()
    assert_in_time(world, limit)
    assert str(world.finished[0].flags) == "UO"


@pytest.mark.parametrize("limit", [0.3, 1.0])
def test_a_model_that_thinks_is_not_stopped_and_the_client_has_all_its_time_afterwards(limit: float) -> None:
    world = World()
    world.use(limits=msgspec.structs.replace(world.snapshot.limits, stall=limit))
    start_reaper(world, limit / LOOKS)
    world.cluster.is_ready = False
    world.rest(body=None, length=10)  # it waits for a connection
    world.loop.advance(3 * limit)
    assert world.finished == []
    (waiter,) = world.cluster.waiting
    world.cluster.give(waiter)
    world.loop.advance(limit * (1 - 2 / LOOKS))
    assert world.finished == []
    world.loop.advance(limit / 2)
    assert world.finished[0].status == 408
