"""What every peer is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.credentials import Credentials
from benchmarks.processes import Chain, Child

MODEL = "half_plus_two"
PREDICT_PATH = f"/v1/models/{MODEL}:predict"


@dataclass(frozen=True, slots=True)
class Rules:
    """How much authorization there is: `count` rules spread over `models` models, of which one is `MODEL`."""

    count: int = 10
    models: int = 10

    def model_of(self, number: int) -> str:
        """The model that rule `number` is about. `MODEL` is in the middle, for peers that search in order."""
        model = number % self.models
        return MODEL if model == self.models // 2 else f"model_{model:05d}"


class Needs(Protocol):
    """What a measurement asks of its peer. A work has these; see `Setting` for what they mean."""

    @property
    def rules(self) -> Rules: ...
    @property
    def workers(self) -> int: ...
    @property
    def shares_cores(self) -> bool: ...
    @property
    def is_plain(self) -> bool: ...
    @property
    def hops(self) -> int: ...
    @property
    def resilience(self) -> str: ...
    @property
    def exports(self) -> bool: ...


class SinkPorts(NamedTuple):
    """Of a collector, on the loopback address."""

    taking: int
    silent: int
    """Nothing that goes there is ever answered."""
    closed: int
    """Nobody listens there."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a peer is to do, the same for all."""

    credentials: Credentials
    folder: Path
    """For its configuration and logs: its own."""
    cores: frozenset[int]
    rest_upstream: int
    grpc_upstream: int
    rules: Rules = field(default_factory=Rules)
    workers: int = 1
    is_plain: bool = False
    """Takes connections without TLS, and so without a workload's identity. Only Envoy supports this here."""
    hops: int = 1
    """2: another proxy beside the caller takes its calls in plain text and sends them over mTLS and HTTP/2 to the one
    beside the model server. Both are configured as usual."""
    resilience: str = "default"
    """`off`: three endpoints in turn, no breaker, ejection or second try. `on`: the same three, balanced by load, with
    all of that, health checks, and calls that say how long they may take. Only meshproxy supports this here."""
    sink: SinkPorts | None = None
    """Where those that export spans send them to."""


@dataclass(frozen=True, slots=True)
class Running:
    """A started peer: where it takes REST and gRPC (None if it cannot), and its process (None: there is no hop)."""

    rest_port: int | None
    grpc_port: int | None
    child: Child | Chain | None
    is_tls: bool = True
    sees_grpc_model: bool = False
    """Whether it decides over the model that a gRPC body names."""
    exports: bool = False
    """Spans of it arrive at the sink."""


class Peer(Protocol):
    """A way from the client to the model server."""

    name: str
    checks: str
    """What it checks for each request, in words: shown beside its figures."""

    def missing(self) -> str | None:
        """What is not installed here, if anything."""

    def version(self) -> str: ...

    def start(self, setting: Setting) -> Running:
        """
        Raises:
            CannotRun: it did not start.
        """
