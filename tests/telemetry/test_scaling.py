"""Scaling signals: time is an argument, and requests are records."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.events import RequestHead
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.proxy.exchange import Exchange
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.exposition import render
from meshproxy.telemetry.metrics import Registry
from meshproxy.telemetry.model_labels import ModelLabels
from meshproxy.telemetry.request_metrics import RequestMetrics
from meshproxy.telemetry.scaling import MOST_MENTIONED, STEP, WINDOW, Scaling, add_up

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange


class World:
    """A sidecar whose clock is moved by hand, and which looks at itself every second as the reaper does."""

    def __init__(self) -> None:
        self.now = 0.0
        self.registry = Registry()
        self.counted = RequestMetrics(self.registry, ModelLabels())
        self.counted.mention(["fraud", "quiet"])
        self.admissions: list[tuple[str, str, Any]] = []
        self.live: set[Exchange] = set()
        pipeline: Any = SimpleNamespace(live=self.live, admissions=SimpleNamespace(rows=lambda: self.admissions))
        self.scaling = Scaling(self.registry, self.counted, pipeline, lambda: self.now)

    def until(self, then: float) -> None:
        while self.scaling.deadline <= then:
            self.now = self.scaling.deadline
            self.scaling.expire(self.now)
        self.now = then

    def of(self, model: str = "fraud") -> dict[str, float]:
        models: Any = self.scaling.page()["models"]
        found: dict[str, float] = models[model]
        return found

    def limit(self, current: int, waiting: int = 0) -> Any:
        admission = SimpleNamespace(limit=SimpleNamespace(current=current), waiting=waiting)
        self.admissions.append(("route", "fraud", admission))
        return admission

    def gauges(self) -> dict[str, float]:
        page = b"".join(render(self.registry)).decode()
        lines = [line for line in page.splitlines() if line.startswith("meshproxy_scaling_")]
        return {name.removeprefix("meshproxy_scaling_"): float(value) for name, value in map(str.split, lines)}


@given(
    calls=st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)), max_size=8),
    asked=st.floats(1, 50),
)
def test_the_mean_concurrency_is_exact_whatever_happens_between_two_looks(
    calls: list[tuple[float, float]], asked: float
) -> None:
    world = World()
    records = [request("fraud", started, started + length) for started, length in calls]
    events = [(record.started, world.live.add, record) for record in records]
    events += [(record.finished, world.live.discard, record) for record in records]
    for at, change, record in sorted(events, key=lambda event: event[0]):
        if at > asked:
            break
        world.until(at)
        change(record)
        if change == world.live.discard:
            world.counted.observe(record)
    world.until(asked)
    flown = sum(max(0.0, min(record.finished, asked) - record.started) for record in records)
    assert world.of()["concurrency"] == pytest.approx(flown / asked, abs=0.002)
    assert world.of()["inFlight"] == sum(record.started <= asked < record.finished for record in records)


def request(model: str, started: float, finished: float) -> Exchange:
    connection: Any = SimpleNamespace(direction="inbound", protocol="HTTP/2")
    record = Exchange(RequestHead(1, b"POST", b"", b"", (), False), connection, started)
    record.forwarded = Call(Verb.PREDICT, (ModelRef(model, None, None, ""),))
    record.status = 200
    record.finished = finished
    return record


def test_what_is_older_than_the_window_no_longer_counts(make_exchange: MakeExchange) -> None:
    world = World()
    for number in range(120):
        world.until(float(number))
        if number < 30:
            world.counted.observe(make_exchange(model="fraud"))
        if number == 30:
            assert world.of()["requestRate"] == 1.0
    assert world.of()["requestRate"] == 0.0
    seconds: Any = world.scaling.page()["windowSeconds"]
    assert WINDOW - STEP <= seconds <= WINDOW


def test_access_control_is_no_load_and_neither_is_the_application_of_this_pod(make_exchange: MakeExchange) -> None:
    world = World()
    world.until(10.0)
    denied = Refusal(Reason.PERMISSION_DENIED, "No.", rule="default-deny")
    busy = Refusal(Reason.OVERLOADED, "Later.")
    world.counted.observe(make_exchange(model="fraud", refusal=denied, grpc_status=7))
    world.counted.observe(make_exchange(model="fraud", refusal=denied, status=403, is_grpc=False))
    world.counted.observe(make_exchange(model="fraud", direction="outbound"))
    assert world.of()["requestRate"] == 0.0
    world.until(11.0)
    world.counted.observe(make_exchange(model="fraud", refusal=busy, grpc_status=8))  # it asked for more than there is
    world.until(12.0)
    assert world.of()["requestRate"] == pytest.approx(1 / 12, abs=0.001)


def test_the_queue_and_the_share_of_the_limit_that_is_asked_for() -> None:
    world = World()
    first, second = world.limit(4), world.limit(2)
    world.live.update(request("fraud", 0.0, 99.0) for _ in range(9))
    world.until(10.0)
    first.waiting, second.waiting = 2, 1
    world.until(20.0)
    assert world.of() == {
        "inFlight": 9, "concurrency": 9.0, "queueDepth": 1.5, "requestRate": 0.0, "limit": 6, "saturation": 1.5,
    }  # fmt: skip
    # The limit of this model is not the model server's.
    total: Any = world.scaling.page()["total"]
    assert total == {"inFlight": 9, "concurrency": 9.0, "queueDepth": 1.5, "requestRate": 0.0}


def test_a_model_that_nobody_called_is_a_zero_and_an_unknown_one_is_missing(make_exchange: MakeExchange) -> None:
    world = World()
    world.until(5.0)
    world.counted.observe(make_exchange(model="a-typo", status=404))
    world.counted.observe(make_exchange(model="served"))
    world.until(10.0)
    page: Any = world.scaling.page()
    assert list(page["models"]) == ["fraud", "quiet", "served"]
    assert world.of("quiet") == {"inFlight": 0, "concurrency": 0.0, "queueDepth": 0.0, "requestRate": 0.0}


def test_series_are_of_models_that_were_called(make_exchange: MakeExchange) -> None:
    world = World()
    world.until(10.0)
    assert world.gauges() == {}
    world.limit(5)
    world.counted.observe(make_exchange(model="fraud", started=0.0, finished=5.0))
    world.until(11.0)
    assert world.gauges() == pytest.approx(
        {
            'concurrency{model="fraud"}': 5 / 11,
            'queue_depth{model="fraud"}': 0.0,
            'request_rate{model="fraud"}': 1 / 11,
            'saturation{model="fraud"}': 1 / 11,
        }
    )


def test_thousands_of_models_in_documents_do_not_make_thousands_of_lines() -> None:
    world = World()
    world.counted.mention([f"m{number}" for number in range(MOST_MENTIONED)])
    page: Any = world.scaling.page()
    assert len(page["models"]) == MOST_MENTIONED
    world.counted.mention([f"m{number}" for number in range(MOST_MENTIONED + 1)])
    world.until(2.0)
    page = world.scaling.page()
    assert page["models"] == {}


def test_at_the_start_there_is_no_window_yet() -> None:
    assert World().of() == {"inFlight": 0, "concurrency": 0.0, "queueDepth": 0.0, "requestRate": 0.0}


def test_workers_add_up() -> None:
    one, other = World(), World()
    one.limit(4)
    other.limit(4)
    one.live.add(request("fraud", 0.0, 99.0))
    other.live.update(request("fraud", 0.0, 99.0) for _ in range(3))
    other.counted.mention(["fraud", "more"])
    one.until(10.0)
    other.until(20.0)
    page: Any = add_up([one.scaling.page(), other.scaling.page()])
    assert page["windowSeconds"] == 10.0
    assert page["models"]["fraud"] == {
        "inFlight": 4, "concurrency": 4.0, "queueDepth": 0.0, "requestRate": 0.0, "limit": 8, "saturation": 0.5,
    }  # fmt: skip
    assert page["models"].keys() == {"fraud", "quiet", "more"}
    assert "limit" not in page["models"]["more"]
    assert page["total"]["inFlight"] == 4
