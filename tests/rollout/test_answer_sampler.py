"""Which calls are chosen, and what is counted of their answers."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from meshproxy.config import globs
from meshproxy.config.telemetry import Answers
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.inference.surface import Signals
from meshproxy.refusal import Reason, Refusal
from meshproxy.rollout import answer_sampler as module
from meshproxy.rollout.answer_sampler import MOST_AT_ONCE, AnswerSampler, Result
from meshproxy.rollout.meter import READING
from meshproxy.rollout.window import class_bin, score_bin
from meshproxy.telemetry.model_labels import ModelLabels
from tests.telemetry.conftest import exchange_maker

if TYPE_CHECKING:
    from collections.abc import Callable

EXCHANGE = exchange_maker()
SCORED = Signals(3, 0, 70, 0.5)
WITH_NAN = Signals(3, 1, None, None)


class World:
    def __init__(self, ratio: float = 1.0, models: tuple[str, ...] = ()) -> None:
        self.now, self.spent, self.costs = 100.0, 0.0, 0.0
        self.sampler = AnswerSampler(ModelLabels(), random.Random(1).random, lambda: self.now, lambda: self.spent)
        self.sampler.adopt(Answers(ratio, models))

    def read(self, signals: Signals | None) -> Callable[[bytes], Signals | None]:
        def read(body: bytes) -> Signals | None:
            self.spent += self.costs
            return signals

        return read

    def call(
        self, signals: Signals | None = SCORED, answer: bytes | None = b"{}", whole: bool = True, **names: object
    ) -> None:
        self.sampler.begin()
        exchange = EXCHANGE(**{"effective_version": "7", "status": 200, "grpc_status": 0, **names})
        self.sampler.ended(exchange, whole, answer, self.read(signals))

    def results(self) -> dict[Result, int]:
        return {result: count for result, count in self.sampler.results.items() if count}


def test_what_is_read_is_counted_by_model_and_version() -> None:
    world = World()
    for _ in range(3):
        world.call()
    world.call(WITH_NAN)
    world.call(model="other", version="2")
    first, second = world.sampler.take()
    assert (first.model, first.version, first.read, first.nan) == ("half_plus_two", "7", 4, 1)
    assert (first.classes, first.scores) == ({class_bin(70): 3}, {score_bin(0.5): 3})
    assert (second.model, second.version, second.read) == ("other", "2", 1)
    assert world.sampler.take() == []
    assert world.results() == {Result.READ: 5}


@pytest.mark.parametrize("ratio", [0.02, 0.3])
def test_calls_are_chosen_by_chance(ratio: float) -> None:
    world = World(ratio)
    chosen = []
    for number in range(20_000):
        if world.sampler.is_due(world.now):
            chosen.append(number)
            world.call()
    assert 0.9 < len(chosen) / 20_000 / ratio < 1.1
    gaps = [after - before for before, after in pairwise(chosen)]
    assert min(gaps) == 1
    assert max(gaps) > 3 / ratio  # geometric, not every so many


def test_none_and_all() -> None:
    none, everyone = World(0.0), World(1.0)
    assert not any(none.sampler.is_due(100.0) for _ in range(1_000))
    assert everyone.sampler.is_due(100.0)
    everyone.call()
    assert everyone.sampler.is_due(100.0)


def test_a_call_that_was_chosen_stays_so_until_it_begins() -> None:
    """The express lane asks, and the ordinary way asks again."""
    world = World(0.1)
    while not world.sampler.is_due(world.now):
        pass
    assert world.sampler.is_due(world.now)
    world.call()


def test_reading_takes_a_twentieth_of_the_time() -> None:
    world = World()
    world.costs = 0.001
    world.call()
    assert not world.sampler.is_due(world.now)
    assert not world.sampler.is_due(world.now + 0.0009 * READING)
    assert world.sampler.is_due(world.now + 0.001 * READING)


def test_only_so_many_answers_are_kept_at_once() -> None:
    world = World()
    for _ in range(MOST_AT_ONCE):
        assert world.sampler.is_due(world.now)
        world.sampler.begin()
    assert not world.sampler.is_due(world.now)
    world.sampler.ended(EXCHANGE(status=503), True, b"", world.read(None))
    assert world.sampler.is_due(world.now)


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ({"answer": None}, Result.TOO_LONG),
        ({"signals": None}, Result.UNREADABLE),
        ({"whole": False}, Result.FAILED),
        ({"grpc_status": 13}, Result.FAILED),
        ({"refusal": Refusal(Reason.NO_UPSTREAM, "x")}, Result.FAILED),
        ({"model": "\n"}, Result.UNNAMED),
    ],
)
def test_what_cannot_be_read_is_told(call: dict[str, object], result: Result) -> None:
    world = World()
    world.call(**call)  # type: ignore[arg-type]
    assert world.results() == {result: 1}
    assert world.sampler.take() == []


def test_versions_of_one_report_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VERSIONS", 2)
    world = World()
    for version in "1233":
        world.call(version=version)
    assert [row.version for row in world.sampler.take()] == ["1", "2"]
    assert world.results() == {Result.READ: 2, Result.UNNAMED: 2}


def test_which_models_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(globs, "MEMO_ENTRIES", 2)

    def call(name: str, verb: Verb = Verb.PREDICT) -> Call:
        return Call(verb, (ModelRef(name),))

    chosen = World(models=("fraud-*", "churn")).sampler
    for _ in range(2):
        assert [chosen.wants(call(name)) for name in ("fraud-1", "churn", "churn-2", "x")] == [True, True, False, False]
    everyone = World().sampler
    assert everyone.wants(call("x"))
    assert not everyone.wants(call("x", Verb.METADATA))
    assert not everyone.wants(Call(Verb.PREDICT))
