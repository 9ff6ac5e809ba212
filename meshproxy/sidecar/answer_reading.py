"""Reads a share of the model server's answers, while the documents ask for it (`telemetry.answers`)."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.config.schema import Documents
    from meshproxy.control_api import ReportedAnswers
    from meshproxy.proxy.context import ProxyContext
    from meshproxy.rollout.answer_sampler import AnswerSampler
    from meshproxy.telemetry.metrics import Rows
    from meshproxy.telemetry.model_labels import ModelLabels


class AnswerReading:
    """Of one process, for inbound calls: answers are read once, by the sidecar of the model server.

    Args:
        context: the pipeline that chooses calls.
        labels: which models and versions have names.
    """

    def __init__(self, context: ProxyContext, labels: ModelLabels) -> None:
        self._context = context
        self._labels = labels
        self._sampler: AnswerSampler | None = None

    def adopt(self, documents: Documents) -> None:
        """These documents are in use (`Configuration.on_adopted`)."""
        settings = documents.mesh.spec.telemetry.answers
        if settings is None:
            self._context.sampler = None
            return
        if self._sampler is None:
            from meshproxy.rollout.answer_sampler import AnswerSampler  # its memory is for those who want it

            self._sampler = AnswerSampler(self._labels, random.random, time.monotonic, time.thread_time)
        self._sampler.adopt(settings)
        self._context.sampler = self._sampler

    def take(self) -> Sequence[ReportedAnswers]:
        """What was read since the last time."""
        return self._sampler.take() if self._sampler is not None else ()

    def count(self) -> Rows:
        """For `metric_table.ANSWERS_READ`."""
        if self._sampler is not None:
            for result, number in self._sampler.results.items():
                yield (result.value,), number
