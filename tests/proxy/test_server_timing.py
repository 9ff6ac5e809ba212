"""`server-timing`: who gets it, and what it says."""

from __future__ import annotations

import re
from typing import Any

import pytest

from meshproxy.codec.events import ResponseHead
from meshproxy.config.routes import Retries as RetrySettings

ASKS = ((b"x-server-timing", b"1"),)
METRIC = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+;dur=[0-9]+\.[0-9]{3}")


def metrics(value: bytes) -> dict[str, float]:
    """Milliseconds by name, of a valid field."""
    found = value.split(b", ")
    assert all(METRIC.fullmatch(each) for each in found), value
    return {name.decode(): float(duration) for name, _, duration in (each.partition(b";dur=") for each in found)}


@pytest.mark.parametrize(
    ("tells", "headers", "is_told"),
    [
        (True, ASKS, True),
        (False, ASKS, False),
        (True, (), False),
        (True, ((b"x-server-timing", b"0"),), False),
    ],
)
def test_only_who_may_ask_and_asks_is_told(world: Any, tells: bool, headers: Any, is_told: bool) -> None:
    world.use(tells_timing=tells)
    client = world.rest(headers=headers)
    world.cluster.streams[0].respond()
    assert (b"server-timing" in client.headers) is is_told
    world.assert_let_go()


def test_it_says_where_the_time_went(world: Any) -> None:
    world.use(tells_timing=True)
    world.cluster.is_ready = False
    client = world.rest(headers=ASKS, body=None, length=2)
    world.loop.now += 1
    world.cluster.give(world.cluster.all[0].pool.waiting.pop())
    world.loop.now += 2
    client.receive(b"{}", True)
    world.loop.now += 4
    server = world.cluster.streams[0]
    server.reader.head_received(ResponseHead(0, 200, ((b"server-timing", b"inbound.decide;dur=1.000"),), False))
    told = [value for name, value in client.heads[0][1].items() if name == b"server-timing"]
    assert metrics(told[-1]) == {
        "inbound.read": 2000.0,
        "inbound.decide": 0.0,
        "inbound.queue": 0.0,
        "inbound.retry": 0.0,
        "inbound.connect": 1000.0,
        "inbound.upstream": 4000.0,
    }


def test_grpc_has_it_in_the_initial_metadata_and_earlier_attempts_in_a_part_of_their_own(world: Any, wire: Any) -> None:
    world.serve(2, retries=RetrySettings())
    world.use(tells_timing=True, routes=world.pipeline.snapshot.routes)
    cluster = world.cluster
    client = world.grpc(wire.spec(b"open"), headers=ASKS)
    world.loop.now += 1
    cluster.streams[0].fail_grpc()
    world.loop.now += 2
    cluster.streams[1].respond_grpc()
    found = metrics(client.headers[b"server-timing"])
    assert (found["inbound.retry"], found["inbound.upstream"]) == (1000.0, 2000.0)
    world.assert_let_go()


def test_it_is_asked_of_the_next_sidecar_too(world: Any) -> None:
    world.use(tells_timing=True)
    world.rest(headers=ASKS)
    assert ASKS[0] in world.cluster.streams[0].head.headers


def test_a_refusal_has_none(world: Any) -> None:
    world.use(tells_timing=True)
    client = world.rest(b"/v1/models/closed:predict", headers=ASKS)
    assert client.status == 403
    assert b"server-timing" not in client.headers
