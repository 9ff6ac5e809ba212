"""Slots answer from the event loop, so nothing here waits for a clock but the schedule itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from meshproxy.devtools.load.generator import Driver
from meshproxy.devtools.load.schedule import uniform


class FakeSlot:
    """Answers on the next turn of the loop, or as it is told."""

    def __init__(self, driver: Driver, answer: Callable[[FakeSlot], None] | None = None) -> None:
        self.begun = 0.0
        self.count = 0
        self.driver = driver
        self._answer = answer or self.finish_soon

    def begin(self) -> None:
        self.count += 1
        self._answer(self)

    @staticmethod
    def finish_soon(slot: FakeSlot) -> None:
        asyncio.get_running_loop().call_soon(slot.driver.finished, slot, None)


async def test_a_closed_loop_keeps_every_slot_busy_until_there_were_enough() -> None:
    driver = Driver()
    slots = [FakeSlot(driver) for _ in range(4)]
    run = await driver.run_closed(slots, 60.0, at_most=100)
    assert run.done == 100
    assert sum(slot.count for slot in slots) == 100
    assert min(slot.count for slot in slots) >= 20
    assert run.offered is None
    assert not run.errors


async def test_a_closed_loop_ends_at_its_deadline() -> None:
    driver = Driver()
    run = await driver.run_closed([FakeSlot(driver)], 0.01)
    assert run.done > 0
    assert run.unanswered == 0


async def test_a_slot_that_failed_takes_no_more_and_is_counted() -> None:
    driver = Driver()

    def fail(slot: FakeSlot) -> None:
        driver.finished(slot, "status 503")

    broken = FakeSlot(driver, fail)
    run = await driver.run_closed([broken, FakeSlot(driver)], 60.0, at_most=10)
    assert broken.count == 1
    assert run.errors == {"status 503": 1}
    assert run.done == 9


async def test_an_open_loop_starts_everything_that_is_due() -> None:
    driver = Driver()
    slots = [FakeSlot(driver) for _ in range(2)]
    run = await driver.run_open(slots, uniform(2_000, 0.05))
    assert run.done == 100
    assert len(run.lags) == 100
    assert run.offered is not None
    assert abs(run.offered - 2_000 * 100 / 99) < 0.01
    assert slots[0].count == slots[1].count == 50


async def test_a_stall_is_counted_from_the_moments_at_which_requests_were_due() -> None:
    """The only slot does not answer before the whole schedule has passed: all behind it waited, the first most."""
    driver = Driver()
    starts = uniform(1_000, 0.02)
    loop = asyncio.get_running_loop()

    def answer(slot: FakeSlot) -> None:
        if slot.count == 1:
            loop.call_later(0.05, driver.finished, slot, None)
        else:
            loop.call_soon(driver.finished, slot, None)

    run = await driver.run_open([FakeSlot(driver, answer)], starts)
    assert run.done == 20
    assert list(run.latencies[1:]) == sorted(run.latencies[1:], reverse=True)
    assert run.latencies[1] > 0.02
    assert max(run.lags) > 0.02


async def test_an_open_loop_without_slots_left_says_what_was_not_answered() -> None:
    driver = Driver()

    def fail(slot: FakeSlot) -> None:
        driver.finished(slot, "closed by the peer")

    run = await driver.run_open([FakeSlot(driver, fail)], uniform(1_000, 0.005))
    assert run.errors == {"closed by the peer": 1}
    assert run.done == 0
    assert (run.unanswered, run.failed) == (4, 5)


async def test_the_generator_says_what_it_cost_itself() -> None:
    driver = Driver()
    run = await driver.run_closed([FakeSlot(driver)], 60.0, at_most=2_000)
    assert 0 < run.own_cpu < 60
    assert run.achieved > 0
