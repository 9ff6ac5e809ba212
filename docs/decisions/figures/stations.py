"""The figures of 0002: an exchange carried by calls and callbacks, or by a coroutine in a Task of its own.

`python docs/decisions/figures/stations.py`: CPU time for one exchange, the least of nine runs, under uvloop.

Both carry the same exchange through the same six stations, which do nothing but call the next one: a head comes, a
connection is at hand, the answer's head comes, the answer's end comes. Events come in batches of 16, each batch in a
turn of the loop, as reads of sockets bring them.
"""
# ruff: noqa: T201

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

RUNS = 9
BATCHES = 1_000
BATCH = 16


class Called:
    """Stations that call the next one; what it has to wait for calls it back."""

    __slots__ = ("done",)

    def begin(self) -> None:
        self.identified()

    def identified(self) -> None:
        self.named()

    def named(self) -> None:
        self.acquired()

    def acquired(self) -> None:
        self.done = 0

    def answer_began(self) -> None:
        self.done = 1

    def answer_ended(self) -> None:
        self.done = 2


class Awaited:
    """The same as coroutines. Two futures are what it waits for: the answer's head, and its end."""

    __slots__ = ("done", "end", "head", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.head: asyncio.Future[None] = loop.create_future()
        self.end: asyncio.Future[None] = loop.create_future()

    async def begin(self) -> None:
        await self.identified()

    async def identified(self) -> None:
        await self.named()

    async def named(self) -> None:
        await self.acquired()

    async def acquired(self) -> None:
        self.done = 0
        await self.head
        self.done = 1
        await self.end
        self.done = 2


class AwaitedOnce(Awaited):
    """One coroutine without others inside it: the least that a Task for each exchange can cost."""

    __slots__ = ()

    async def begin(self) -> None:
        self.done = 0
        await self.head
        self.done = 1
        await self.end
        self.done = 2


async def by_calls() -> None:
    exchanges = [Called() for _ in range(BATCH)]
    for exchange in exchanges:
        exchange.begin()
    await asyncio.sleep(0)
    for exchange in exchanges:
        exchange.answer_began()
    await asyncio.sleep(0)
    for exchange in exchanges:
        exchange.answer_ended()
    await asyncio.sleep(0)


async def by_tasks(kind: type[Awaited]) -> None:
    loop = asyncio.get_running_loop()
    exchanges = [kind(loop) for _ in range(BATCH)]
    for exchange in exchanges:
        exchange.task = loop.create_task(exchange.begin())
    await asyncio.sleep(0)
    for exchange in exchanges:
        exchange.head.set_result(None)
    await asyncio.sleep(0)
    for exchange in exchanges:
        exchange.end.set_result(None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert all(exchange.done == 2 for exchange in exchanges)


async def measure(run: Callable[..., Awaitable[None]], *arguments: Any) -> float:
    """Microseconds of CPU for one exchange."""
    least = float("inf")
    for _ in range(RUNS):
        begin = time.process_time()
        for _ in range(BATCHES):
            await run(*arguments)
        least = min(least, time.process_time() - begin)
    return least / BATCHES / BATCH * 1e6


async def main() -> None:
    print(f"calls and callbacks                     {await measure(by_calls):6.2f} us")
    print(f"a Task of one coroutine                 {await measure(by_tasks, AwaitedOnce):6.2f} us")
    print(f"a Task of a coroutine for each station  {await measure(by_tasks, Awaited):6.2f} us")


if __name__ == "__main__":
    uvloop.run(main())
