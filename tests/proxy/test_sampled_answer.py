"""What is kept of an answer that is to be read, and what is passed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from meshproxy.inference.call import Call
from meshproxy.inference.surface import Signals
from meshproxy.proxy.arm_call import MOST_ANSWER, ArmCall
from meshproxy.proxy.exchange import Exchange
from meshproxy.proxy.mirror import MirroredRequest
from meshproxy.proxy.sampled_answer import SampledAnswer
from tests.proxy.test_arm_call import EXCHANGE, FakeCopy, FakeMeter, call


class FakeSampler:
    """Chooses every call."""

    def __init__(self) -> None:
        self.begun = 0
        self.told: list[tuple[bool, bytes | None]] = []
        self.is_wanted = True

    def wants(self, call: Call) -> bool:
        return self.is_wanted

    def is_due(self, now: float) -> bool:
        return True

    def begin(self) -> None:
        self.begun += 1

    def ended(
        self, exchange: Exchange, is_whole: bool, answer: bytes | None, read: Callable[[bytes], Signals | None]
    ) -> None:
        self.told.append((is_whole, answer))


def sampled(sampler: FakeSampler, other: Any = None) -> SampledAnswer:
    return SampledAnswer(sampler, lambda body: None, other)


def test_an_answer_is_kept_unless_it_is_too_long() -> None:
    sampler = FakeSampler()
    for size, is_whole in ((1, True), (1, False), (MOST_ANSWER, True)):
        it = sampled(sampler)
        it.take_request(b"asked", True)
        it.take_answer(b"a")
        it.take_answer(bytes(size))
        it.launch(EXCHANGE, is_whole)
    assert sampler.told == [(True, b"a\0"), (False, b"a\0"), (True, None)]


def test_a_copy_gets_all_that_it_would_have_got() -> None:
    sampler, copy = FakeSampler(), FakeCopy()
    it = sampled(sampler, cast("MirroredRequest", copy))
    it.take_request(b"asked", True)
    it.take_answer(bytes(MOST_ANSWER + 1))
    it.fell_back()
    it.launch(EXCHANGE, True)
    assert copy.got == [(b"asked", True), bytes(MOST_ANSWER + 1), True]


def test_the_arm_of_a_rollout_is_told_of_a_fallback() -> None:
    meter = FakeMeter()
    arm: ArmCall = call(meter)
    it = sampled(FakeSampler(), arm)
    it.take_answer(b"ab")
    it.fell_back()
    it.launch(EXCHANGE, True)
    assert meter.told == [(True, 0, -1, None)]
