"""Which endpoint gets a call, and which there are."""

from __future__ import annotations

import logging
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.config.servers import Balancing, BreakerSettings, EjectionSettings
from meshproxy.routing.failure import Failure
from meshproxy.transport.connect_failures import ConnectError, ConnectFailure
from meshproxy.transport.notices import Notices
from meshproxy.upstream import cluster as clusters
from meshproxy.upstream.breaker import State
from meshproxy.upstream.cluster import LATENCIES, Cluster, ClusterSettings, NoEndpoint, Securities
from meshproxy.upstream.discovery import EndpointAddress
from meshproxy.upstream.endpoint import Endpoint
from meshproxy.upstream.health import CheckSettings, Health
from meshproxy.upstream.pool import H1Pool, H2Pool, PoolSettings

POOL = PoolSettings(connect_timeout=1.0, max_connections=64, max_pending=1_024, idle_timeout=60.0)
ONCE = BreakerSettings(consecutive_failures=1, open_for=5.0, failing_for=0.0)
FIVE = BreakerSettings()
ANSWERED = [each for each in Failure if each is not Failure.CONNECT]


class Pool:
    def __init__(self, shared: Any, address: str, settings: Any, peer: Any = None) -> None:
        self.shared = shared
        self.address = address
        self.settings = settings
        self.peer = peer
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Watching:
    def __init__(self) -> None:
        self.changes: list[tuple[Any, ...]] = []

    def circuit(self, *what: Any) -> None:
        self.changes.append(("circuit", *what))

    def connect_failed(self, *what: Any) -> None:
        self.changes.append(("connect_failed", *what))

    def ejected(self, *what: Any) -> None:
        self.changes.append(("ejected", *what))

    def endpoints(self, *what: Any) -> None:
        self.changes.append(("endpoints", *what))


class Bench:
    """A cluster, at a time that is a number."""

    def __init__(self, *, locality: str = "", **settings: Any) -> None:
        self.now = 100.0
        self.members: set[Any] = set()
        self.watch = Watching()
        reaper = SimpleNamespace(add=self.members.add, discard=self.members.discard)
        shared: Any = SimpleNamespace(loop=SimpleNamespace(time=lambda: self.now), reaper=reaper, notices=Notices())
        self.cluster = Cluster(
            shared,
            "models",
            ClusterSettings(POOL, **{"breaker": ONCE, **settings}),
            self.watch,
            locality=locality,
            securities=Securities("peer", "peer for HTTP/1.1", "rest", "grpc"),  # type: ignore[arg-type]
            chance=Random(1),
        )

    def find(self, *found: str | EndpointAddress) -> None:
        self.cluster.set_endpoints([each if isinstance(each, EndpointAddress) else both(each) for each in found])

    def pick(self, *tried: Endpoint, is_grpc: bool = True, model: str = "m", key: int | None = None) -> Endpoint:
        return self.cluster.pick(is_grpc, model, self.now, key, tried)

    def answer(self, name: str, model: str = "m") -> None:
        endpoint = self.at(name)
        endpoint.succeeded(model, 0.01, self.now, endpoint.begin(model, self.now))

    def picked(self, times: int = 50, **how: Any) -> set[str]:
        return {self.pick(**how).locality for _ in range(times)}

    def at(self, name: str) -> Endpoint:
        return next(each for each in self.cluster.endpoints.values() if each.locality == name)

    def fail(self, name: str, failure: Failure = Failure.CONNECT, model: str = "m", is_slow: bool = False) -> None:
        endpoint = self.at(name)
        endpoint.failed(model, failure, self.now, endpoint.begin(model, self.now), is_slow)


def both(name: str) -> EndpointAddress:
    """An endpoint, told apart by its locality."""
    return EndpointAddress(rest=f"{name}:1", grpc=f"{name}:2", locality=name)


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "H1Pool", Pool)
    monkeypatch.setattr(clusters, "H2Pool", Pool)


class TestWhichThereAre:
    def test_each_has_pools_for_what_it_speaks(self) -> None:
        bench = Bench()
        bench.find("a", EndpointAddress(rest="b:1"), EndpointAddress(grpc="c:2"), EndpointAddress(sidecar="d:3"))
        pools = [(each.rest, each.grpc) for each in bench.cluster.endpoints.values()]
        addresses = [(rest and rest.address, grpc and grpc.address) for rest, grpc in pools]
        assert addresses == [("a:1", "a:2"), ("b:1", None), (None, "c:2"), ("d:3", "d:3")]
        sidecar: Any = bench.cluster.endpoints["sidecar=d:3"]
        assert sidecar.rest.streams is sidecar.grpc
        assert sidecar.is_sidecar
        assert (sidecar.rest.peer, sidecar.grpc.peer) == ("peer for HTTP/1.1", "peer")
        assert [(rest and rest.peer, grpc and grpc.peer) for rest, grpc in pools[:3]] == [
            ("rest", "grpc"),
            ("rest", None),
            (None, "grpc"),
        ]

    def test_the_pools_are_those_of_each_version(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        bench = Bench()
        bench.find("a")
        assert isinstance(bench.at("a").rest, H1Pool)
        assert isinstance(bench.at("a").grpc, H2Pool)

    def test_connections_that_fail_are_counted_and_logged_by_reason(self, caplog: pytest.LogCaptureFixture) -> None:
        bench = Bench()
        bench.find("a")
        caplog.set_level(logging.INFO)
        for failure in (ConnectFailure.EXPIRED, ConnectFailure.EXPIRED, ConnectFailure.WRONG_NAME):
            bench.at("a").grpc.on_failure(ConnectError("a:2 is wrong", failure))  # type: ignore[union-attr]
        assert bench.watch.changes == [
            ("connect_failed", "models", ConnectFailure.EXPIRED),
            ("connect_failed", "models", ConnectFailure.EXPIRED),
            ("connect_failed", "models", ConnectFailure.WRONG_NAME),
        ]
        assert [record.getMessage() for record in caplog.records] == [
            "connection to ModelServer models failed (expired): a:2 is wrong",
            "connection to ModelServer models failed (wrong_name): a:2 is wrong (lines suppressed before: 1)",
        ]

    def test_what_stays_is_the_same_and_what_goes_is_closed(self) -> None:
        bench = Bench()
        bench.find("a", "b")
        a, b = bench.at("a"), bench.at("b")
        bench.find("b", "c")
        assert bench.at("b") is b
        assert a.rest is not None
        assert a.rest.is_closed
        assert b.rest is not None
        assert not b.rest.is_closed
        assert bench.picked() == {"b", "c"}
        assert bench.watch.changes == [("endpoints", "models", ["c:1,c:2"], ["a:1,a:2"])]

    def test_the_first_answer_is_no_change(self) -> None:
        bench = Bench()
        bench.find("a")
        assert bench.watch.changes == []
        assert bench.cluster.is_discovered

    def test_health_checks_are_told(self) -> None:
        bench, told = Bench(), []
        bench.cluster.on_endpoints = lambda come, gone: told.append((len(come), len(gone)))
        bench.find("a", "b")
        bench.find("b")
        assert told == [(2, 0), (0, 1)]

    def test_one_that_moves_is_known_by_where_it_is_now(self) -> None:
        bench = Bench(locality="here")
        bench.find(EndpointAddress(rest="a:1", locality="there"), EndpointAddress(rest="b:1", locality="there"))
        bench.find(EndpointAddress(rest="a:1", locality="here"), EndpointAddress(rest="b:1", locality="there"))
        assert bench.picked(is_grpc=False) == {"here"}

    def test_a_discovery_that_answers_late_opens_nothing(self) -> None:
        bench = Bench()
        bench.find("a")
        bench.cluster.close()
        bench.find("a", "b")
        assert len(bench.cluster.endpoints) == 1
        assert bench.members == set()

    def test_closing_closes_every_pool(self) -> None:
        bench = Bench()
        bench.find("a", "b")
        assert bench.members == {bench.cluster}
        bench.cluster.close()
        assert all(each.rest.is_closed for each in bench.cluster.endpoints.values())  # type: ignore[union-attr]
        assert bench.members == set()


class TestWarmingUp:
    def test_only_what_comes_to_others(self) -> None:
        bench = Bench()
        bench.find("a")
        assert bench.at("a").load.share(100.0) == 1.0
        bench.find("a", "b")
        assert bench.at("b").load.share(1e9) == 0.1  # it has not answered yet
        bench.at("b").succeeded("m", 0.1, 200.0, bench.at("b").begin("m", 200.0))
        assert bench.at("b").load.share(205.0) == pytest.approx(0.55)

    def test_none_if_none_is_wanted(self) -> None:
        bench = Bench(balancing=Balancing(warm_up=0.0))
        bench.find("a")
        bench.find("a", "b")
        assert bench.at("b").load.share(100.0) == 1.0


class TestPick:
    def test_only_endpoints_that_speak_it(self) -> None:
        bench = Bench()
        bench.find("a", EndpointAddress(rest="b:1", locality="b"), EndpointAddress(grpc="c:2", locality="c"))
        assert bench.picked(is_grpc=False) == {"a", "b"}
        assert bench.picked(is_grpc=True) == {"a", "c"}

    def test_the_only_one_is_known_without_a_choice(self) -> None:
        bench = Bench()
        assert bench.cluster.only_rest is None
        bench.find("a")
        assert bench.cluster.only_rest is bench.at("a")
        bench.find("a", "b")
        assert bench.cluster.only_rest is None

    @pytest.mark.parametrize(("is_grpc", "surface"), [(True, "gRPC"), (False, "REST")])
    def test_nobody_speaks_it(self, is_grpc: bool, surface: str) -> None:
        bench = Bench()
        with pytest.raises(NoEndpoint, match="no endpoint is known yet"):
            bench.pick()
        bench.find()
        with pytest.raises(NoEndpoint, match="there is no endpoint"):
            bench.pick()
        bench.find(EndpointAddress(rest="a:1") if is_grpc else EndpointAddress(grpc="a:2"))
        with pytest.raises(NoEndpoint, match=f"no endpoint serves {surface}"):
            bench.pick(is_grpc=is_grpc)

    def test_others_than_those_that_were_tried(self) -> None:
        bench = Bench()
        bench.find("a", "b", "c")
        a, b = bench.at("a"), bench.at("b")
        assert {bench.pick(a, b).locality for _ in range(50)} == {"c"}
        assert {bench.pick(a, b, bench.at("c")).locality for _ in range(50)} == {"a", "b", "c"}

    def test_or_the_same_if_the_others_are_out(self) -> None:
        bench = Bench()
        bench.find("a", "b")
        bench.fail("b")
        assert bench.pick(bench.at("a")).locality == "a"

    def test_a_broken_model_is_called_elsewhere(self) -> None:
        bench = Bench()
        bench.find("a", "b")
        bench.fail("a", Failure.ERROR)
        assert bench.picked() == {"b"}
        assert bench.at("a").allows("other", bench.now)

    def test_a_key_counts_for_ring_hash_only(self) -> None:
        assert Bench().cluster.key is None
        assert Bench(balancing=Balancing(policy="ring-hash")).cluster.key == Balancing().key

    def test_without_breakers_an_endpoint_is_called_however_often_it_fails(self) -> None:
        bench = Bench(breaker=BreakerSettings(enabled=False), ejection=EjectionSettings(enabled=False))
        bench.find("a")
        for _ in range(10):
            bench.fail("a")
        assert bench.picked() == {"a"}

    def test_the_same_key_goes_to_the_same_endpoint(self) -> None:
        bench = Bench(balancing=Balancing(policy="ring-hash"))
        bench.find("a", "b", "c")
        (first,) = bench.picked(key=7)
        bench.fail(first)
        (second,) = bench.picked(key=7)
        assert second != first

    def test_local_ones_while_enough_of_them_can(self) -> None:
        bench = Bench(locality="here")
        bench.find(
            *[EndpointAddress(rest=f"{n}:1", locality="here") for n in "ab"],
            EndpointAddress(rest="c:1", locality="there"),
        )
        assert bench.picked(is_grpc=False) == {"here"}
        first = next(iter(bench.cluster.endpoints.values()))
        first.failed("m", Failure.CONNECT, bench.now, first.begin("m", bench.now))
        bench.cluster.expire(bench.now)
        assert bench.picked(is_grpc=False) == {"here", "there"}

    def test_allows_looks_and_changes_nothing(self) -> None:
        bench = Bench()
        bench.find("a", "b")
        a, b = bench.at("a"), bench.at("b")
        assert bench.cluster.allows(True, "m", bench.now)
        assert bench.cluster.allows(True, "m", bench.now, (a,))
        assert not bench.cluster.allows(True, "m", bench.now, (a, b))
        bench.fail("b")
        assert not bench.cluster.allows(True, "m", bench.now, (a,))
        assert bench.cluster.allows(True, "m", bench.now, (b,))


class TestTheLastEndpoint:
    """A caller's bad input, or too many calls, must not take a model server away from the other callers."""

    @pytest.mark.parametrize("failure", ANSWERED)
    def test_is_called_however_it_answers(self, failure: Failure) -> None:
        bench = Bench()
        bench.find("a")
        for _ in range(10):
            bench.fail("a", failure)
            bench.now += 0.04
            assert bench.pick().locality == "a"
            assert bench.pick(model="other").locality == "a"

    @pytest.mark.parametrize("failure", [Failure.ERROR, Failure.RESET])
    def test_is_one_of_several_when_all_of_them_are_out(self, failure: Failure) -> None:
        bench = Bench()
        bench.find("a", "b", "c")
        for name in "abc":
            bench.fail(name, failure)
        assert bench.picked() == {"a", "b", "c"}

    def test_calls_through_an_open_breaker_change_nothing_before_its_probe(self) -> None:
        bench = Bench()
        bench.find("a")
        bench.fail("a", Failure.ERROR)
        changes = len(bench.watch.changes)
        for _ in range(10):
            bench.fail("a", Failure.ERROR)
        assert len(bench.watch.changes) == changes
        bench.now += 6.0
        bench.answer("a")
        assert bench.at("a").states() == [("", State.CLOSED), ("m", State.CLOSED)]

    def test_that_cannot_be_reached_is_no_last_endpoint(self) -> None:
        bench = Bench()
        bench.find("a", "b")
        bench.fail("b", Failure.RESET)
        bench.fail("a", Failure.CONNECT)
        assert bench.picked() == {"b"}
        assert bench.cluster.can_call(True, "m", bench.now)
        bench.find("a")
        bench.pick().begin("m", bench.now)  # one a second
        with pytest.raises(NoEndpoint, match="cannot be opened"):
            bench.pick()
        assert not bench.cluster.can_call(True, "m", bench.now)

    def test_is_left_out_where_another_server_takes_the_call(self) -> None:
        bench = Bench()
        bench.find("a")
        bench.fail("a", Failure.UNAVAILABLE)
        assert bench.cluster.pick(True, "m", bench.now, None, (), has_fallback=True) is bench.at("a")  # one a second
        bench.fail("a", Failure.UNAVAILABLE)
        with pytest.raises(NoEndpoint):
            bench.cluster.pick(True, "m", bench.now, None, (), has_fallback=True)

    @pytest.mark.parametrize("failure", [Failure.ERROR, Failure.UNAVAILABLE, Failure.RESET, Failure.TIMEOUT])
    def test_several_stay_in_while_they_answer_others(self, failure: Failure) -> None:
        """Nine of ten calls fail, at each endpoint, for ten seconds: overload, or one caller's bad input."""
        bench = Bench(breaker=FIVE)
        bench.find("a", "b")
        for _ in range(100):
            for name in "ab":
                for _ in range(9):
                    bench.fail(name, failure)
                bench.answer(name)
            bench.now += 0.1
        assert bench.watch.changes == []

    @pytest.mark.parametrize("failure", [Failure.ERROR, Failure.UNAVAILABLE, Failure.RESET, Failure.TIMEOUT])
    def test_one_that_answers_nothing_well_for_a_second_is_out(self, failure: Failure) -> None:
        bench = Bench(breaker=FIVE)
        bench.find("a", "b")
        for _ in range(10):
            bench.fail("a", failure)
            bench.now += 0.11
        assert bench.at("a").allows("m", bench.now)
        bench.fail("a", failure)
        assert not bench.at("a").allows("m", bench.now)

    def test_all_who_wait_for_one_connection_are_not_many_failures(self) -> None:
        """It was not accepted in time, as happens when the server has too much to do."""
        bench = Bench(breaker=FIVE)
        bench.find("a")
        for _ in range(100):
            bench.fail("a", is_slow=True)
        assert bench.pick() is bench.at("a")
        bench.now += 1.0
        bench.fail("a", is_slow=True)
        assert not bench.at("a").allows("m", bench.now)

    def test_one_that_cannot_be_reached_is_out_at_once(self) -> None:
        bench = Bench(breaker=FIVE)
        bench.find("a", "b")
        for _ in range(5):
            bench.fail("a", Failure.CONNECT)
        assert bench.picked() == {"b"}


class TestLastResort:
    def test_the_one_that_would_be_next_and_one_a_second(self) -> None:
        bench = Bench()
        bench.find("a", "b")
        bench.fail("b")
        bench.now += 0.1
        bench.fail("a")
        endpoint = bench.pick()
        assert endpoint.locality == "b"
        token = endpoint.begin("m", bench.now)
        with pytest.raises(NoEndpoint, match="none of the 2 endpoints") as none:
            bench.pick()
        assert 0 < none.value.retry_after <= 1
        endpoint.failed("m", Failure.CONNECT, bench.now, token)
        bench.now += 1.0
        assert bench.pick().locality == "a"  # b waits for longer now

    def test_who_is_unhealthy_is_no_resort(self) -> None:
        bench = Bench()
        bench.find("a")
        bench.at("a").health = Health(CheckSettings(("m",)), begins_unhealthy=True)
        with pytest.raises(NoEndpoint, match="health check"):
            bench.pick()

    def test_those_that_are_skipped_are_counted_by_why(self) -> None:
        bench = Bench()
        bench.find("a", "b", "c", "d")
        assert bench.cluster.skipped(True, "m", bench.now) == []
        bench.at("a").health = Health(CheckSettings(("m",)), begins_unhealthy=True)
        bench.fail("a")
        bench.fail("b")
        bench.fail("c")
        bench.at("d").is_ejected = True
        assert bench.cluster.skipped(True, "m", bench.now) == [("ejected", 1), ("circuit_open", 2), ("unhealthy", 1)]

    def test_a_copy_is_no_resort_and_no_probe(self) -> None:
        bench = Bench()
        bench.find("a", "b")
        bench.fail("a", Failure.ERROR)
        for _ in range(20):
            calm = bench.cluster.pick_clean(True, "m", bench.now + 60)
            assert calm is bench.at("b")
        bench.fail("b", Failure.ERROR)
        assert bench.cluster.pick_clean(True, "m", bench.now) is None
        assert bench.cluster.pick_clean(True, "m", bench.now + 60) is None
        assert bench.pick().locality in "ab"  # which is left for whoever is in earnest


class TestOutliers:
    def test_they_are_out_and_come_back(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING)
        bench = Bench(
            balancing=Balancing(policy="round-robin"),
            breaker=BreakerSettings(enabled=False),
            ejection=EjectionSettings(min_requests=10),
        )
        bench.find("a", "b", "c", "d")
        for endpoint in bench.cluster.endpoints.values():
            for _ in range(20):
                token = endpoint.begin("m", bench.now)
                if endpoint.locality == "a":
                    endpoint.failed("m", Failure.ERROR, bench.now, token)
                else:
                    endpoint.succeeded("m", 0.1, bench.now, token)
        bench.now += 10.0
        bench.cluster.expire(bench.now)
        assert bench.at("a").is_ejected
        assert bench.watch.changes == [("ejected", "models", "a:1,a:2")]
        assert "endpoint ejected (success-rate outlier)" in caplog.text
        assert bench.picked() == {"b", "c", "d"}
        bench.now += 10.0
        bench.cluster.expire(bench.now)
        assert bench.picked() == {"a", "b", "c", "d"}


class TestWatch:
    def test_breakers_are_told_by_server_model_and_endpoint(self) -> None:
        bench = Bench()
        bench.find("a")
        bench.fail("a", Failure.ERROR)
        assert bench.watch.changes == [("circuit", "models", "m", "a:1,a:2", State.CLOSED, State.OPEN)]


def test_latencies_are_bounded_as_callers_choose_names() -> None:
    cluster = Bench().cluster
    first = cluster.latency("m")
    assert cluster.latency("m") is first
    for number in range(LATENCIES):
        cluster.latency(f"m{number}")
    assert cluster.latency("m") is not first
