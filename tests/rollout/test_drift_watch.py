"""What is watched, what is not, and the words for people."""

from __future__ import annotations

import pytest

from meshproxy.control_api import ReportedAnswers
from meshproxy.rollout import drift_watch as module
from meshproxy.rollout.drift import DAY, OF_ANSWERS, Found, Signal, State
from meshproxy.rollout.drift_watch import Drift, DriftWatch, Watched, in_words
from tests.view.meshes import calls

NOW = 1_700_000_000.0
INTERVAL = 10.0


def run(watch: DriftWatch, now: float, readings: int, failed: int = 0, **others: object) -> tuple[float, list[Drift]]:
    news = []
    for _ in range(readings):
        now += INTERVAL
        row = calls(count=400, failed=failed, **others)  # type: ignore[arg-type]
        news += watch.add(row, 0.0, now)
    return now, news


def test_a_model_that_fails_is_raised_once_and_ends() -> None:
    watch = DriftWatch(INTERVAL)
    now, news = run(watch, NOW, 80)
    assert news == []
    assert {each.found.state for each in watch.found(now)} == {State.STEADY}
    now, news = run(watch, now, 20, failed=40)
    assert [(each.watched, each.signal, each.found.state) for each in news] == [
        (Watched("inbound", "fraud", "3"), Signal.ERRORS, State.RAISED)
    ]
    assert watch.raised(now) == watch.raised(now, "fraud") != []
    assert watch.raised(now, "other") == []
    now, news = run(watch, now, 5)
    assert [each.found.state for each in news] == [State.STEADY]
    assert watch.raised(now) == []


def test_slower_calls_and_a_slower_sidecar_are_told_apart() -> None:
    watch = DriftWatch(INTERVAL)
    now, _ = run(watch, NOW, 80)
    now, _ = run(watch, now, 20, upstream={52: 400})
    assert [each.signal for each in watch.raised(now)] == [Signal.UPSTREAM]
    watch = DriftWatch(INTERVAL)
    now, _ = run(watch, NOW, 80)
    now, _ = run(watch, now, 20, proxy={40: 400})
    assert [each.signal for each in watch.raised(now)] == [Signal.PROXY]


def test_a_new_version_begins_anew() -> None:
    """However bad it is beside the one before: that is what rollouts are for."""
    watch = DriftWatch(INTERVAL)
    now, _ = run(watch, NOW, 80)
    now, news = run(watch, now, 80, failed=200, version="4")
    assert news == []
    assert {each.watched.version: each.found.expected for each in watch.found(now) if each.signal is Signal.ERRORS} == {
        "3": 0.0,
        "4": 0.5,
    }


@pytest.mark.parametrize(
    ("others", "age"),
    [
        ({"verb": "metadata"}, 0.0),
        ({"model": "_other"}, 0.0),
        ({"model": "_none"}, 0.0),
        ({"version": "_other"}, 0.0),
        ({"denied": {"no-roles": 10}}, 0.0),
        ({}, INTERVAL + 1),
    ],
)
def test_what_says_nothing_of_a_model_is_not_counted(others: dict[str, object], age: float) -> None:
    watch = DriftWatch(INTERVAL)
    for second in range(1_000):
        watch.add(calls(**others), age, NOW + second)  # type: ignore[arg-type]
    assert list(watch.found(NOW + 1_000)) == []
    assert watch.unwatched == 0


def test_versions_are_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VERSIONS", 2)
    watch = DriftWatch(INTERVAL)
    for version in "123":
        watch.add(calls(version=version), 0.0, NOW)
    assert watch.unwatched == 10
    watch.add(calls(version="3"), 0.0, NOW + DAY + 1)
    assert watch.unwatched == 10


def test_counts_that_cannot_be_true_are_no_harm() -> None:
    """Sidecars are believed, and may be wrong."""
    watch = DriftWatch(INTERVAL)
    for second in range(100):
        watch.add(calls(count=400, failed=2**50, upstream={2**50: 2**50}), 0.0, NOW + 100 * second)
    assert next(each.found.level for each in watch.found(NOW + 10_000)) == 1.0


@pytest.mark.parametrize(
    ("signal", "words"),
    [
        (Signal.ERRORS, "version 3, at its servers: 3.00% of the calls fail, 1.00% before"),
        (Signal.UPSTREAM, "version 3, at its servers: model server and network take 30 ms, typically, 10 ms before"),
        (Signal.PROXY, "version 3, at its servers: the sidecar takes 30 ms, typically, 10 ms before"),
        (Signal.NAN, "version 3, at its servers: 3.00% of the answers have NaN or infinities, 1.00% before"),
        (Signal.SCORES, "version 3, at its servers: the scores of answers are others than before: a PSI of 0.03"),
    ],
)
def test_words(signal: Signal, words: str) -> None:
    found = Found(State.RAISED, NOW, 0.03, 0.01)
    assert in_words(Drift(Watched("inbound", "fraud", "3"), signal, found)) == words


def answer(watch: DriftWatch, now: float, readings: int, **others: object) -> tuple[float, list[Drift]]:
    news = []
    for _ in range(readings):
        now += INTERVAL
        row: dict[str, object] = {"read": 400, "classes": {0: 300, 1: 100}, "scores": {5: 200, 6: 200}}
        news += watch.add_answers(ReportedAnswers("fraud", "3", **(row | others)), 0.0, now)  # type: ignore[arg-type]
    return now, news


@pytest.mark.parametrize(
    ("signal", "change"),
    [
        (Signal.NAN, {"nan": 40}),
        (Signal.CLASSES, {"classes": {0: 100, 1: 300}}),
        (Signal.SCORES, {"scores": {6: 200, 7: 200}}),
    ],
)
def test_answers_that_change_are_told_by_what_has_changed(signal: Signal, change: dict[str, object]) -> None:
    watch = DriftWatch(INTERVAL)
    now, news = answer(watch, NOW, 80)
    assert news == []
    assert {each.signal for each in watch.found(now)} == {*OF_ANSWERS}
    now, news = answer(watch, now, 20, **change)
    assert [(each.watched, each.signal) for each in news] == [(Watched("inbound", "fraud", "3"), signal)]
    now, news = answer(watch, now, 5)
    assert [each.found.state for each in news] == [State.STEADY]


def test_answers_and_calls_are_looked_at_apart() -> None:
    """Calls that come after answers do not end the reading of those."""
    watch = DriftWatch(INTERVAL)
    now = NOW
    for _ in range(80):
        now += INTERVAL
        watch.add(calls(count=400), 0.0, now)
        watch.add_answers(ReportedAnswers("fraud", "3", 400, classes={1: 400}, scores={1: 400}), 0.0, now)
    assert {each.signal: each.found.state for each in watch.found(now)} == dict.fromkeys(Signal, State.STEADY)


def test_answers_of_too_many_versions_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ANSWERING", 1)
    watch = DriftWatch(INTERVAL)
    for version in "12":
        watch.add_answers(ReportedAnswers("fraud", version, 7), 0.0, NOW)
    watch.add_answers(ReportedAnswers("fraud", "1", 0), 0.0, NOW)
    watch.add_answers(ReportedAnswers("fraud", "3", 7), INTERVAL + 1, NOW)
    assert watch.unwatched == 7


def test_answers_that_cannot_be_true_are_no_harm() -> None:
    watch = DriftWatch(INTERVAL)
    answer(watch, NOW, 80, nan=2**53, classes={63: 2**53}, scores={-768: 2**53})
    answer(watch, NOW, 80, nan=2**53, classes={}, scores={})
    assert next(each.found.level for each in watch.found(NOW + 900) if each.signal is Signal.NAN) == 1.0
