"""The figures of 0007: a timer for each time limit, or a number that a sweep looks at.

`python docs/decisions/figures/timers.py`: CPU time under uvloop, the least of nine runs.
"""
# ruff: noqa: T201

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from meshproxy.codec.limits import Limits
from meshproxy.transport.connection import ConnectionContext, Times
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h1_server import H1Server
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper

RUNS = 9
LIMITS = 16_000
CONNECTIONS = 5_000


def late() -> None:
    """What a timer would call."""


async def turns(a_turn: int) -> float:
    """What the loops of the others cost by themselves."""
    begin = time.process_time()
    for _ in range(LIMITS // a_turn):
        for _ in range(a_turn):
            pass
        await asyncio.sleep(0)
    return time.process_time() - begin


async def timers(a_turn: int) -> float:
    """Set and cancel, `a_turn` in each turn of the loop: uvloop frees a cancelled one in the next."""
    loop = asyncio.get_running_loop()
    begin = time.process_time()
    for _ in range(LIMITS // a_turn):
        for _ in range(a_turn):
            loop.call_later(75, late).cancel()
        await asyncio.sleep(0)
    return time.process_time() - begin


async def timers_moved(a_turn: int) -> float:
    """Cancel one of 5,000 that are pending and set it anew: what each request would do to its idle connection."""
    loop = asyncio.get_running_loop()
    pending = [loop.call_later(75, late) for _ in range(CONNECTIONS)]
    at = 0
    begin = time.process_time()
    for _ in range(LIMITS // a_turn):
        for _ in range(a_turn):
            at = (at + 1_237) % CONNECTIONS
            pending[at].cancel()
            pending[at] = loop.call_later(75, late)
        await asyncio.sleep(0)
    spent = time.process_time() - begin
    for timer in pending:
        timer.cancel()
    return spent


async def numbers(connections: list[H1Server]) -> float:
    """Set a deadline and set it back."""
    begin = time.process_time()
    for _ in range(LIMITS // CONNECTIONS + 1):
        for connection in connections:
            connection.deadline = 75.0
            connection.deadline = 0.0
    return (time.process_time() - begin) * LIMITS / (CONNECTIONS * (LIMITS // CONNECTIONS + 1))


async def least(run: Callable[..., Awaitable[float]], *arguments: Any) -> float:
    """Microseconds of CPU for one limit."""
    return min([await run(*arguments) for _ in range(RUNS)]) / LIMITS * 1e6


def connections(reaper: Reaper) -> list[H1Server]:
    """Idle ones, with all that a connection has but a socket."""
    loop = asyncio.get_running_loop()
    shared = ConnectionContext(
        loop=loop, outbox=Outbox(loop), reaper=reaper, limits=Limits(), times=Times(), on_limit=lambda name: None
    )
    made = []
    for number in range(CONNECTIONS):
        info = ConnectionInfo(direction="inbound", protocol="HTTP/1.1", remote=str(number), local="")
        connection = H1Server(shared, info, lambda stream, head: None, lambda stream, rejected: None)
        connection.deadline = loop.time() + 75.0
        reaper.add(connection)
        made.append(connection)
    return made


def look(reaper: Reaper, elsewhere: bytearray) -> float:
    """Microseconds of CPU for a look at everything; `elsewhere` is read before, so that nothing is in the caches."""
    best = float("inf")
    now = asyncio.get_running_loop().time()
    for _ in range(RUNS):
        elsewhere.count(b"x")
        begin = time.process_time()
        reaper.sweep(now)
        best = min(best, time.process_time() - begin)
    return best * 1e6


async def main() -> None:
    reaper = Reaper(asyncio.get_running_loop())
    made = connections(reaper)
    print("us of CPU for one time limit")
    for a_turn in (1, 16):
        turn = await least(turns, a_turn)
        print(f"  a timer, set and cancelled, {a_turn:2} a turn   {await least(timers, a_turn) - turn:5.2f}")
        print(f"  one of 5,000 timers, moved, {a_turn:2} a turn   {await least(timers_moved, a_turn) - turn:5.2f}")
    print(f"  a number, set and set back              {await least(numbers, made):5.2f}")
    for connection in made:
        connection.deadline = asyncio.get_running_loop().time() + 75.0
    print(f"us of CPU for a look at {len(reaper):,} idle connections")
    print(f"  all of them in the processor's caches   {look(reaper, bytearray(1)):5.0f}")
    print(f"  none of them                            {look(reaper, bytearray(1 << 26)):5.0f}")


if __name__ == "__main__":
    uvloop.run(main())
