from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.transport.connector import ConnectError
from meshproxy.upstream import cluster as clusters
from meshproxy.upstream.cluster import Cluster
from meshproxy.upstream.pool import H1Pool, H2Pool

BOTH = ("127.0.0.1:8501", "127.0.0.1:8500")


class Recording:
    """A pool that writes down who came."""

    def __init__(self, driving: Any, address: str, settings: Any) -> None:
        self.address = address
        self.takers: list[Any] = []
        self.is_closed = False

    def acquire(self, taker: Any) -> None:
        self.takers.append(taker)

    def close(self) -> None:
        self.is_closed = True


class Wanting:
    error: ConnectError | None = None

    def acquired(self, stream: Any) -> None: ...

    def acquire_failed(self, error: ConnectError) -> None:
        self.error = error


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "H1Pool", Recording)
    monkeypatch.setattr(clusters, "H2Pool", Recording)


def make(*addresses: tuple[str | None, str | None]) -> Cluster:
    return Cluster(None, "models", addresses, SimpleNamespace())  # type: ignore[arg-type]


def asked(cluster: Cluster, is_grpc: bool, times: int = 1) -> list[str]:
    found: list[str] = []
    for _ in range(times):
        taker = Wanting()
        pool: Any = cluster.acquire(is_grpc, taker)
        assert pool.takers[-1] is taker
        found.append(pool.address)
    return found


def test_rest_and_grpc_go_to_their_own_addresses() -> None:
    cluster = make(BOTH)
    assert asked(cluster, False) == ["127.0.0.1:8501"]
    assert asked(cluster, True) == ["127.0.0.1:8500"]


def test_endpoints_take_turns() -> None:
    cluster = make(("a:1", None), ("b:1", None), ("c:1", None))
    found = asked(cluster, False, 6)
    assert sorted(found[:3]) == sorted(found[3:]) == ["a:1", "b:1", "c:1"]
    assert found[:3] == found[3:]


def test_only_endpoints_that_speak_it_are_asked() -> None:
    cluster = make(("a:1", None), ("b:1", "b:2"), (None, "c:2"))
    assert set(asked(cluster, False, 4)) == {"a:1", "b:1"}
    assert set(asked(cluster, True, 4)) == {"b:2", "c:2"}


@pytest.mark.parametrize(("is_grpc", "surface"), [(True, "gRPC"), (False, "REST")])
def test_a_surface_that_nobody_speaks_is_told(is_grpc: bool, surface: str) -> None:
    cluster = make(("a:1", None) if is_grpc else (None, "a:2"))
    taker = Wanting()
    assert cluster.acquire(is_grpc, taker) is None
    assert str(taker.error) == f"ModelServer models has no {surface} address"


def test_closing_closes_every_pool() -> None:
    cluster = make(BOTH, ("b:1", "b:2"))
    pools = [cluster.acquire(is_grpc, Wanting()) for is_grpc in (False, True) for _ in range(2)]
    cluster.close()
    assert len({id(pool) for pool in pools}) == 4
    assert all(pool is not None and pool.is_closed for pool in pools)


def test_the_pools_are_those_of_each_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    endpoint = clusters.Endpoint(None, *BOTH, SimpleNamespace())  # type: ignore[arg-type]
    assert isinstance(endpoint.rest, H1Pool)
    assert isinstance(endpoint.grpc, H2Pool)
    assert (endpoint.rest.address, endpoint.grpc.address) == BOTH
