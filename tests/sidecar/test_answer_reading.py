"""Answers are read while the documents say so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from meshproxy.config.telemetry import Answers
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.inference.surface import Signals
from meshproxy.sidecar.answer_reading import AnswerReading
from meshproxy.telemetry.model_labels import ModelLabels
from tests.telemetry.conftest import exchange_maker


def documents(answers: Answers | None) -> Any:
    return SimpleNamespace(mesh=SimpleNamespace(spec=SimpleNamespace(telemetry=SimpleNamespace(answers=answers))))


def test_it_begins_and_ends_with_the_documents() -> None:
    context: Any = SimpleNamespace(sampler=None)
    reading = AnswerReading(context, ModelLabels())
    reading.adopt(documents(None))
    assert vars(context) == {"sampler": None}
    assert (list(reading.take()), list(reading.count())) == ([], [])

    reading.adopt(documents(Answers(1.0, ("a",))))
    sampler = context.sampler
    assert sampler.wants(Call(Verb.PREDICT, (ModelRef("a"),)))
    sampler.begin()
    exchange = exchange_maker()(model="a", version="1", status=200, grpc_status=0)
    sampler.ended(exchange, True, b"", lambda body: Signals(1, 0, None, 1.0))
    assert [(row.model, row.read) for row in reading.take()] == [("a", 1)]
    assert dict(reading.count())[("read",)] == 1

    reading.adopt(documents(Answers(1.0, ("b",))))
    assert context.sampler is sampler
    assert not sampler.wants(Call(Verb.PREDICT, (ModelRef("a"),)))
    reading.adopt(documents(None))
    assert vars(context) == {"sampler": None}
    assert dict(reading.count())[("read",)] == 1  # a counter does not go away
