"""Reports on their way: numbered, and kept until there is a receipt."""

from __future__ import annotations

import msgspec
import pytest

from meshproxy.control.app import MESSAGE_BYTES
from meshproxy.control_api import ReportedAnswers
from meshproxy.identity.caller import Caller, Workload
from meshproxy.sidecar import report_queue as module
from meshproxy.sidecar.report_queue import MOST_WAITING, ReportQueue
from meshproxy.telemetry.call_reports import CallReports
from meshproxy.telemetry.model_labels import ModelLabels
from tests.telemetry.conftest import exchange_maker


class World:
    def __init__(self) -> None:
        self.now = 100.0
        labels = ModelLabels()
        labels.mention(["m"])
        self.calls = CallReports(labels, lambda: 0.0)
        self.queue = ReportQueue(self.calls, "s", 0, lambda: self.now)

    def call(self, caller: str = "b") -> None:
        workload = Workload(f"spiffe://dev.example/ns/a/sa/{caller}", "dev.example", "a", caller, 2e9)
        self.calls.observe(exchange_maker()(model="m", caller=Caller(workload)))

    def collect(self) -> list[tuple[int, float, float, int]]:
        """Sequence, seconds, age and calls of each."""
        return [
            (each.sequence, each.seconds, each.age, sum(sum(row.codes.values()) for row in each.calls))
            for each in self.queue.collect()
        ]


def test_reports_wait_for_a_receipt() -> None:
    world = World()
    world.call()
    world.now = 105.0
    assert world.collect() == [(1, 5.0, 0.0, 1)]
    world.now = 112.0
    assert world.collect() == [(1, 5.0, 7.0, 1), (2, 7.0, 0.0, 0)]
    world.queue.acknowledge(world.queue.run, 1)
    assert [each[0] for each in world.collect()] == [2, 3]
    assert world.queue.collect()[0].acknowledged == 1


@pytest.mark.parametrize(("run", "sequence"), [("another", 1), (None, 99)])
def test_receipts_that_are_not_ours(run: str | None, sequence: int) -> None:
    world = World()
    world.collect()
    world.queue.acknowledge(run or world.queue.run, sequence)
    assert [each[0] for each in world.collect()] == [1, 2]


def test_while_nobody_takes_them_counts_go_on_growing() -> None:
    world = World()
    for _ in range(2 * MOST_WAITING):
        world.call()
        world.now += 5.0
        world.collect()
    assert len(world.queue.collect()) == MOST_WAITING
    world.queue.acknowledge(world.queue.run, MOST_WAITING)
    assert world.collect() == [(MOST_WAITING + 1, 5.0 * MOST_WAITING, 0.0, MOST_WAITING)]


def test_a_report_is_as_many_as_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 500)
    world = World()
    for number in range(10):
        world.call(f"caller-{number}")
    found = world.queue.collect()
    assert len(found) > 1
    assert [each.sequence for each in found] == list(range(1, len(found) + 1))
    assert sum(len(each.calls) for each in found) == 10


def test_what_was_read_of_answers_has_reports_of_its_own() -> None:
    world = World()
    world.call()
    scores = dict.fromkeys(range(-768, 769), 2**40)
    rows = [ReportedAnswers("m", str(version), scores=scores) for version in range(5)]
    world.queue.take_answers = lambda: rows
    found = world.queue.collect()
    assert [(len(each.calls), len(each.answers)) for each in found] == [(1, 0), (0, 1), (0, 1), (0, 1), (0, 1), (0, 1)]
    assert [each.sequence for each in found] == [1, 2, 3, 4, 5, 6]
    assert max(len(msgspec.json.encode(each)) for each in found) < MESSAGE_BYTES
