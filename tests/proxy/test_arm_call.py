"""What the meter of a rollout is told of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from meshproxy.config.fields import Metadata
from meshproxy.config.rollouts import Arm, RolloutSpec
from meshproxy.inference.call import Verb
from meshproxy.inference.surface import Operation, Signals
from meshproxy.proxy.arm_call import MOST_ANSWER, ArmCall
from meshproxy.proxy.exchange import Exchange
from meshproxy.proxy.mirror import MirroredRequest
from meshproxy.routing.live_split import LiveSplit

SPLIT = LiveSplit("r", RolloutSpec("m", Arm("1"), Arm("2")))
EXCHANGE = cast("Exchange", object())


class FakeMeter:
    def __init__(self, *, reads: bool = True) -> None:
        self.reads = reads
        self.told: list[tuple[bool, int, int, Signals | None]] = []

    def wants_answer(self, now: float) -> bool:
        return self.reads

    def ended(
        self, exchange: Exchange, is_candidate: bool, examples: int, size: int, read: Callable[[], Any] | None
    ) -> None:
        self.told.append((is_candidate, examples, size, read() if read is not None else None))

    def compared(self, agrees: bool) -> None: ...


class FakeCopy:
    def __init__(self) -> None:
        self.got: list[object] = []

    def judge_for(self, judged: object, arm: object) -> None:
        self.got.append(arm)

    def take_request(self, data: bytes, end: bool) -> None:
        self.got.append((data, end))

    def take_answer(self, data: bytes) -> None:
        self.got.append(data)

    def launch(self, exchange: Exchange, is_whole: bool) -> None:
        self.got.append(is_whole)


def operation() -> Operation:
    return Operation(Verb.PREDICT, b"/", None, read_signals=lambda body: Signals(len(body), 0, None, 1.0))


def call(meter: FakeMeter, *, candidate: bool = True, copy: FakeCopy | None = None) -> ArmCall:
    arm = SPLIT.candidate if candidate else SPLIT.stable
    return ArmCall(0.0, meter, SPLIT, arm, operation(), None, cast("MirroredRequest | None", copy))


def test_an_answer_that_is_read() -> None:
    meter = FakeMeter()
    it = call(meter)
    it.take_answer(b"ab")
    it.take_answer(b"c")
    it.launch(EXCHANGE, True)
    assert meter.told == [(True, 0, 3, Signals(3, 0, None, 1.0))]


def test_answers_that_are_not_read() -> None:
    for meter, size, is_whole in ((FakeMeter(reads=False), 2, True), (FakeMeter(), MOST_ANSWER + 1, True)):
        it = call(meter, candidate=False)
        it.take_answer(bytes(size))
        it.launch(EXCHANGE, is_whole)
        assert meter.told == [(False, 0, size, None)]
    meter = FakeMeter()
    call(meter).launch(EXCHANGE, False)
    assert meter.told == [(True, 0, -1, None)]


def test_a_call_that_another_server_answered_says_nothing_good_of_the_arm() -> None:
    meter = FakeMeter()
    it = call(meter)
    it.fell_back()
    it.take_answer(b"ab")
    it.launch(EXCHANGE, True)
    assert meter.told == [(True, 0, -1, None)]


def test_a_copy_gets_what_it_would_have_got() -> None:
    copy = FakeCopy()
    it = call(FakeMeter(), candidate=False, copy=copy)
    it.take_request(b"q", True)
    it.take_answer(b"a")
    it.launch(EXCHANGE, True)
    assert copy.got == [SPLIT.candidate, (b"q", True), b"a", True]
    assert Metadata("r").name == SPLIT.name
