"""Which answers of stable models are read at one sidecar, and what they say: counts for the control plane (`drift`).

A share of the calls is chosen by chance, whose answers are kept and read when they are over: at most a few at a time,
and for at most a twentieth of the time of the processor. Pure: clocks and chance are arguments.
"""

from __future__ import annotations

from enum import Enum
from math import log
from typing import TYPE_CHECKING

from meshproxy.config.globs import AnyOf
from meshproxy.control_api import ReportedAnswers
from meshproxy.rollout.meter import GOOD, READING, count_outputs, kind_of
from meshproxy.telemetry.metrics import OTHER
from meshproxy.telemetry.model_labels import NONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.config.telemetry import Answers
    from meshproxy.inference.call import Call
    from meshproxy.inference.surface import Signals
    from meshproxy.proxy.exchange import Exchange
    from meshproxy.telemetry.model_labels import ModelLabels

MOST_AT_ONCE = 16
"""Answers that are kept: 4 MB, with the largest ones (`arm_call.MOST_ANSWER`)."""
MOST_VERSIONS = 32
"""Of models, between two reports."""


class Result(Enum):
    """What became of a chosen call; the value is the label of the metric."""

    READ = "read"
    UNREADABLE = "unreadable"
    """It is compressed, or no answer of an inference, or holds too much."""
    TOO_LONG = "too-long"
    FAILED = "failed"
    """The call has: there is nothing to read."""
    UNNAMED = "unnamed"
    """Its model or version has no name of its own, or there are too many of them."""


class AnswerSampler:
    """Of one process (`proxy.ports.Sampler`).

    Args:
        labels: which models and versions have names.
        draw: a random number from 0 up to 1.
        now: seconds; any clock that does not jump.
        cpu_time: seconds of processor time that this thread has used.

    Attributes:
        results: how many of the chosen calls came to what.
    """

    def __init__(
        self,
        labels: ModelLabels,
        draw: Callable[[], float],
        now: Callable[[], float],
        cpu_time: Callable[[], float],
    ) -> None:
        self._labels = labels
        self._draw = draw
        self._now = now
        self._cpu_time = cpu_time
        self._ratio = 0.0
        self._models: AnyOf | None = None
        """Whose answers are read; None: those of all."""
        self._left = 0
        """Calls until one is chosen."""
        self._open = 0
        """Chosen ones that are not over."""
        self._reads_again = 0.0
        self._rows: dict[tuple[str, str], ReportedAnswers] = {}
        self.results = dict.fromkeys(Result, 0)

    def adopt(self, settings: Answers) -> None:
        """Go by these."""
        self._ratio = settings.ratio
        self._models = AnyOf(settings.models) if settings.models else None
        self._left = self._gap()

    def _gap(self) -> int:
        """Calls that are passed over: chosen one by one, their number is geometric."""
        if self._ratio >= 1:
            return 0
        return int(log(1.0 - self._draw()) / log(1.0 - self._ratio)) if self._ratio > 0 else 2**62

    def wants(self, call: Call) -> bool:
        """As in `proxy.ports.Sampler`."""
        if not call.models or not call.verb.is_inference:
            return False
        return self._models is None or self._models[call.models[0].name]

    def is_due(self, now: float) -> bool:
        """As in `proxy.ports.Sampler`; 0.1 us where it is not."""
        if self._left > 0:
            self._left -= 1
            return False
        return now >= self._reads_again and self._open < MOST_AT_ONCE

    def begin(self) -> None:
        """As in `proxy.ports.Sampler`."""
        self._open += 1
        self._left = self._gap()

    def ended(
        self, exchange: Exchange, is_whole: bool, answer: bytes | None, read: Callable[[bytes], Signals | None]
    ) -> None:
        """As in `proxy.ports.Sampler`."""
        self._open -= 1
        self.results[self._take(exchange, is_whole, answer, read)] += 1

    def _take(
        self, exchange: Exchange, is_whole: bool, answer: bytes | None, read: Callable[[bytes], Signals | None]
    ) -> Result:
        if kind_of(exchange, is_whole) != GOOD or exchange.refusal is not None:
            return Result.FAILED
        if answer is None:
            return Result.TOO_LONG
        row = self._row(exchange)
        if row is None:
            return Result.UNNAMED
        began = self._cpu_time()
        signals = read(answer)
        self._reads_again = self._now() + (self._cpu_time() - began) * (READING - 1)
        if signals is None:
            return Result.UNREADABLE
        row.read += 1
        row.nan += signals.nan_values > 0
        count_outputs(signals, row.classes, row.scores)
        return Result.READ

    def _row(self, exchange: Exchange) -> ReportedAnswers | None:
        call = exchange.forwarded or exchange.asked
        key = self._labels.read(call, was_served=True, effective=exchange.effective_version)
        if key[0] in (NONE, OTHER) or key[1] == OTHER:
            return None
        row = self._rows.get(key)
        if row is None and len(self._rows) < MOST_VERSIONS:
            row = self._rows[key] = ReportedAnswers(*key)
        return row

    def take(self) -> list[ReportedAnswers]:
        """What was read since the last time."""
        rows = [row for row in self._rows.values() if row.read]
        self._rows = {}
        return rows
