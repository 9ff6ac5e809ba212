"""One call of an arm of a rollout that is being judged: what the meter needs to know of it.

It stands where a mirrored request does, and passes on to one what it gets: calls of other models, and of rollouts that
are not judged, pay nothing. 3 us a call together with the meter; the answer is kept where that wants to
read it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshproxy.inference.surface import ExampleCounter, Operation
    from meshproxy.proxy.exchange import Exchange
    from meshproxy.proxy.mirror import MirroredRequest
    from meshproxy.proxy.ports import Meter
    from meshproxy.routing.live_split import LiveSplit, RolloutArm

MOST_ANSWER = 262_144
"""Bytes of an answer that is read: longer ones are counted, not read."""


class ArmCall:
    """From the choice of the arm to the end of the exchange."""

    __slots__ = ("_answer", "_copy", "_examples", "_fell_back", "_is_candidate", "_meter", "_operation", "_size")

    def __init__(
        self,
        now: float,
        meter: Meter,
        split: LiveSplit,
        arm: RolloutArm,
        operation: Operation,
        examples: ExampleCounter | None,
        copy: MirroredRequest | None,
    ) -> None:
        self._meter = meter
        self._is_candidate = arm.is_candidate
        self._operation = operation
        self._examples = examples
        self._copy = copy
        self._size = 0
        self._fell_back = False
        reads = operation.read_signals is not None and meter.wants_answer(now)
        self._answer: bytearray | None = bytearray() if reads else None
        if copy is not None and not arm.is_candidate:
            copy.judge_for(meter.compared, split.candidate)

    def take_request(self, data: bytes, end: bool) -> None:
        """As `MirroredRequest.take_request`."""
        if self._copy is not None:
            self._copy.take_request(data, end)

    def take_answer(self, data: bytes) -> None:
        """As `MirroredRequest.take_answer`."""
        self._size += len(data)
        if self._answer is not None:
            self._answer += data
            if self._size > MOST_ANSWER:
                self._answer = None
        if self._copy is not None:
            self._copy.take_answer(data)

    def fell_back(self) -> None:
        """No endpoint of the arm could be called: whoever answers now is not the arm, which has failed."""
        self._fell_back = True

    def launch(self, exchange: Exchange, is_whole: bool) -> None:
        """The exchange is over. Never raises."""
        answer, read = self._answer, None
        self._answer = None
        is_its = is_whole and not self._fell_back
        if answer is not None and is_its and self._operation.read_signals is not None:
            read = partial(self._operation.read_signals, bytes(answer))
        examples = self._examples.count if self._examples is not None else 0
        self._meter.ended(exchange, self._is_candidate, examples, self._size if is_its else -1, read)
        copy, self._copy = self._copy, None
        if copy is not None:
            copy.launch(exchange, is_whole)
