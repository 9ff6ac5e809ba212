from __future__ import annotations

import asyncio
from array import array

import pytest

from meshproxy.devtools.load.generator import Run
from meshproxy.devtools.load.session import Plan, Side, compare, hop, read_url
from meshproxy.devtools.load.target import Target


def run(*latencies: float, offered: float | None = 100.0, seconds: float = 1.0) -> Run:
    return Run(offered, seconds, array("d", latencies), done=len(latencies))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://models.example:18500", ("models.example", 18_500, True)),
        ("http://127.0.0.1/", ("127.0.0.1", 80, False)),
        ("https://[::1]", ("::1", 443, True)),
    ],
)
def test_urls(url: str, expected: tuple[str, int, bool]) -> None:
    assert read_url(url) == expected


@pytest.mark.parametrize("url", ["models:18500", "ftp://h", "https://h/v1/models", "https://", "https://h?x=y"])
def test_what_is_no_url_of_a_host_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a URL of the form"):
        read_url(url)


def test_a_hop_is_the_median_of_what_each_round_added() -> None:
    through = Side("through", [run(*[0.003] * 30), run(*[0.002] * 30), run(*[0.009] * 30)])
    around = Side("around", [run(*[0.001] * 30)] * 3)
    assert hop(through, around, 50.0) == pytest.approx((0.002, 0.001, 0.008))


def test_a_percentile_that_a_round_cannot_say_is_no_hop() -> None:
    side = Side("through", [run(*[0.001] * 30)] * 3)
    assert hop(side, side, 99.0) is None


@pytest.mark.parametrize(
    ("rounds", "fault"),
    [
        ([run(*[0.001] * 100)], None),
        ([run(*[0.001] * 90)], "90 requests/s were answered instead of 100"),
        ([run()], "no request was answered"),
        ([Run(100.0, 1.0, array("d", [0.1]), done=1, unanswered=3)], "3 requests were not answered"),
        ([run(*[0.001] * 90, offered=None)], None),
    ],
)
def test_figures_that_must_not_be_read_say_why(rounds: list[Run], fault: str | None) -> None:
    found = Side("through", rounds).fault()
    assert found is None if fault is None else fault in str(found)


async def test_sides_take_turns_and_meet_the_same_requests() -> None:
    order: list[str] = []
    bodies: list[bytes] = []

    handlers: list[asyncio.Task[None] | None] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"POST /v1/models/m:predict")
                bodies.append(await reader.readexactly(2))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    plan = Plan("rest", "/v1/models/m:predict", b"{}", 200.0, 0.06, rounds=3, connections=2, warm_up=0.01)
    sides = {"through": Target("127.0.0.1", port), "around": Target("127.0.0.1", port)}
    async with server:
        through, around = await compare(sides, plan, lambda side, number: order.append(f"{side}{number}"))
        await asyncio.gather(*(handler for handler in handlers if handler is not None))
    assert order == ["through0", "around0", "around1", "through1", "through2", "around2"]
    assert through.done == around.done == 12
    assert not through.errors
    assert set(bodies) == {b"{}"}
