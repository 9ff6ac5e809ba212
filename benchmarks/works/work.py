"""What every work has: a name, a question, the peers that can do it, and a coroutine that measures one of them once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from benchmarks.peers.peer import MODEL, PREDICT_PATH, Rules
from meshproxy.devtools.load.generator import Driver
from meshproxy.devtools.load.messages import grpc_request, rest_body
from meshproxy.devtools.load.target import grpc_slots, open_grpc, open_rest, rest_request

if TYPE_CHECKING:
    from types import TracebackType

    from benchmarks.context import Context, Upstream
    from benchmarks.peers.peer import Running
    from meshproxy.devtools.load.generator import Run, Slot
    from meshproxy.devtools.load.grpc import GrpcConnection
    from meshproxy.devtools.load.rest import RestConnection
    from meshproxy.devtools.load.target import Target

Figures = dict[str, float]
"""What one measurement of one peer found, by name; units are in the names (`cpu_us`, `p99_ms`, `rss_mb`)."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What goes over the connections."""

    protocol: str
    """`rest` or `grpc`."""
    size: int = 30
    """Bytes of a request body, about."""
    reply: int = 30
    connections: int = 1
    streams: int = 1
    """Concurrent calls on each connection; always 1 for REST."""

    def __str__(self) -> str:
        connections = f"{self.connections} connection{'s' * (self.connections > 1)}"
        streams = f" x {self.streams} stream{'s' * (self.streams > 1)}" if self.protocol == "grpc" else ""
        return f"{'REST' if self.protocol == 'rest' else 'gRPC'} predict {human(self.size)}, {connections}{streams}"


def human(size: int) -> str:
    """Bytes for people: `30 B`, `10 KB`, `1 MiB`."""
    if size % 2**20 == 0:
        return f"{size // 2**20} MiB"
    return f"{size // 1000} KB" if size >= 1000 else f"{size} B"


@dataclass(frozen=True, slots=True)
class Pace:
    """How long one measurement may take."""

    duration: float = 5.0
    warm_up: float = 1.0


@dataclass(frozen=True, slots=True)
class Work(ABC):
    """One row of the catalogue."""

    headline: ClassVar[tuple[str, ...]]
    """The figures that the table shows first."""
    is_fresh: ClassVar[bool] = False
    """Each measurement starts its peer again, because what one leaves behind would count in the next."""
    at_most_rounds: ClassVar[int | None] = None
    """For works that take long and whose figures hardly move."""
    is_plain: ClassVar[bool] = False
    """No TLS, for tools that cannot show a client certificate."""
    name: str
    traffic: Traffic
    peers: tuple[str, ...]
    rules: Rules = field(default_factory=Rules)
    workers: int = 1
    shares_cores: bool = False
    """The proxy may run on every core, those of the load and of the model server among them."""
    hops: int = 1
    resilience: str = "default"
    """See `peers.peer.Setting`."""
    exports: bool = False
    """There is a collector, for those that export spans."""

    @property
    def needs_cores(self) -> int:
        """How many cores it takes to mean anything: one for the proxy and one for the rest, or one for each worker, one
        for the load and one for the model server."""
        return 2 if self.workers == 1 or self.shares_cores else self.workers + 2

    @property
    @abstractmethod
    def question(self) -> str:
        """What is measured, in words."""

    @abstractmethod
    async def measure(self, context: Context, upstream: Upstream, running: Running, pace: Pace) -> Figures:
        """
        Raises:
            Failed: requests failed, or the schedule was not kept: there is no figure.
        """


class Failed(Exception):
    """A measurement that must not be read; the message says why."""


@dataclass(slots=True)
class Load:
    """Open connections to a peer, ready to be driven. Closes them at the end of `async with`."""

    context: Context
    running: Running
    traffic: Traffic
    timeout_ms: int | None = None
    driver: Driver = field(default_factory=Driver)
    connections: list[RestConnection] | list[GrpcConnection] = field(default_factory=list)

    @property
    def target(self) -> Target:
        port = self.running.rest_port if self.traffic.protocol == "rest" else self.running.grpc_port
        return self.context.target(self.running, port, timeout_ms=self.timeout_ms)

    @property
    def slots(self) -> list[Slot]:
        if self.traffic.protocol == "rest":
            return list(self.connections)  # type: ignore[arg-type]
        return list(grpc_slots(self.connections))  # type: ignore[arg-type]

    async def __aenter__(self) -> Load:
        traffic, target = self.traffic, self.target
        if traffic.protocol == "rest":
            request = rest_request(target, PREDICT_PATH, rest_body(traffic.size))
            varies = self.context.varies
            self.connections = await open_rest(target, request, traffic.connections, self.driver, varies=varies)
        else:
            message = grpc_request(MODEL, traffic.size)
            self.connections = await open_grpc(
                target, message, traffic.connections, traffic.streams, self.driver, varies=self.context.varies
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self.connections:
            connection.transport.abort()


def sound(run: Run) -> Run:
    """The run, if every request was answered well.

    Raises:
        Failed: some were not.
    """
    if run.errors:
        what, count = run.errors.most_common(1)[0]
        raise Failed(f"{sum(run.errors.values())} of {sum(run.errors.values()) + run.done} failed: {what} ({count})")
    if run.unanswered:
        raise Failed(f"{run.unanswered} requests were not answered")
    if not run.done:
        raise Failed("no request was answered")
    return run
