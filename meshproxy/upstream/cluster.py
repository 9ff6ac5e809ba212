"""The live side of one `ModelServer`: its endpoints, their pools, and the choice between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.transport.connector import ConnectError
from meshproxy.upstream.pool import H1Pool, H2Pool, PoolSettings, Taker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.transport.connection import Driving


class Endpoint:
    """One model server: where it takes REST and where gRPC; either may be missing."""

    __slots__ = ("grpc", "rest")

    def __init__(self, driving: Driving, rest: str | None, grpc: str | None, settings: PoolSettings) -> None:
        self.rest = H1Pool(driving, rest, settings) if rest else None
        self.grpc = H2Pool(driving, grpc, settings) if grpc else None


class Cluster:
    """The endpoints of one `ModelServer`. Lives as long as its document stays the same, across snapshots."""

    def __init__(
        self,
        driving: Driving,
        name: str,
        addresses: Sequence[tuple[str | None, str | None]],
        settings: PoolSettings,
    ) -> None:
        self.name = name
        endpoints = [Endpoint(driving, rest, grpc, settings) for rest, grpc in addresses]
        self._rest = [endpoint.rest for endpoint in endpoints if endpoint.rest is not None]
        self._grpc = [endpoint.grpc for endpoint in endpoints if endpoint.grpc is not None]
        self._turn = 0

    def acquire(self, is_grpc: bool, taker: Taker) -> H1Pool | H2Pool | None:
        """Ask the next endpoint in turn for a stream; the pool returned is the one to withdraw from."""
        pools: Sequence[H1Pool | H2Pool] = self._grpc if is_grpc else self._rest
        if not pools:
            surface = "gRPC" if is_grpc else "REST"
            taker.acquire_failed(ConnectError(f"ModelServer {self.name} has no {surface} address"))
            return None
        self._turn += 1
        pool = pools[self._turn % len(pools)]
        pool.acquire(taker)
        return pool

    def close(self) -> None:
        """The document is gone: nothing new is opened, what is under way is finished."""
        pools: list[H1Pool | H2Pool] = [*self._rest, *self._grpc]
        for pool in pools:
            pool.close()
