"""One call whose answer is read, so that it is known when the outputs of a model change (docs/drift.md).

It stands where a mirrored request does, and passes on to one what it gets, or to the arm of a rollout. Calls that are
not chosen pay nothing beyond the choice; the others keep a copy of their answer until it has been read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.proxy.arm_call import MOST_ANSWER, ArmCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.inference.surface import Signals
    from meshproxy.proxy.exchange import Exchange
    from meshproxy.proxy.mirror import MirroredRequest
    from meshproxy.proxy.ports import Sampler


class SampledAnswer:
    """From the choice of the ModelServer to the end of the exchange.

    Args:
        read: reads the answer (`inference.surface.Operation.read_signals`).
        other: what stood here before.
    """

    __slots__ = ("_answer", "_other", "_read", "_sampler")

    def __init__(
        self, sampler: Sampler, read: Callable[[bytes], Signals | None], other: MirroredRequest | ArmCall | None
    ) -> None:
        self._sampler = sampler
        self._read = read
        self._other = other
        self._answer: bytearray | None = bytearray()
        """None: it is too long."""

    def take_request(self, data: bytes, end: bool) -> None:
        """As `MirroredRequest.take_request`."""
        if self._other is not None:
            self._other.take_request(data, end)

    def take_answer(self, data: bytes) -> None:
        """As `MirroredRequest.take_answer`."""
        answer = self._answer
        if answer is not None:
            answer += data
            if len(answer) > MOST_ANSWER:
                self._answer = None
        if self._other is not None:
            self._other.take_answer(data)

    def fell_back(self) -> None:
        """As `ArmCall.fell_back`: who answers is known by the call that is forwarded."""
        if isinstance(self._other, ArmCall):
            self._other.fell_back()

    def launch(self, exchange: Exchange, is_whole: bool) -> None:
        """The exchange is over. Never raises."""
        answer, self._answer = self._answer, None
        self._sampler.ended(exchange, is_whole, bytes(answer) if answer is not None else None, self._read)
        other, self._other = self._other, None
        if other is not None:
            other.launch(exchange, is_whole)
