"""Every peer there is, by name, in the order of the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.peers.direct import Direct
from benchmarks.peers.envoy import Envoy
from benchmarks.peers.envoy_fields import ENVOY_FIELDS, ENVOY_FIELDS_64M
from benchmarks.peers.meshproxy import Meshproxy
from benchmarks.peers.relays import AIOHTTP, GRPC_AIO
from benchmarks.peers.traces import ENVOY_TRACES, OWN_TRACES

if TYPE_CHECKING:
    from benchmarks.peers.peer import Peer


def peers() -> dict[str, Peer]:
    """All peers."""
    every: tuple[Peer, ...] = (
        Direct(),
        Envoy(),
        ENVOY_FIELDS,
        ENVOY_FIELDS_64M,
        Meshproxy(),
        AIOHTTP,
        GRPC_AIO,
        ENVOY_TRACES,
        *OWN_TRACES,
    )
    return {peer.name: peer for peer in every}
