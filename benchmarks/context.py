"""One run of the benchmarks: its folder, its credentials, its model servers, and the peers that are up."""

from __future__ import annotations

import os
import resource
import tempfile
from array import array
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.credentials import Credentials, make_credentials
from benchmarks.peers.peer import Needs, Peer, Running, Setting, SinkPorts
from benchmarks.processes import CannotRun, Child, free_port, python
from meshproxy.devtools.load.target import Target, client_tls

if TYPE_CHECKING:
    from types import TracebackType


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running model server of prepared answers."""

    rest_port: int
    grpc_port: int
    child: Child


class Context(AbstractContextManager["Context"]):
    """Owns every process and file of a run; all are removed at the end, also after an error."""

    def __init__(self, *, varies: bool = True, has_neighbour: bool = False) -> None:
        """
        Args:
            varies: no two requests of a load are alike (`devtools.load.varied`).
            has_neighbour: something else keeps the proxy's core busy (`neighbour`).
        """
        self.varies = varies
        self._has_neighbour = has_neighbour
        self._stack = ExitStack()
        self._upstreams: dict[int, Upstream] = {}
        self._sink: SinkPorts | None = None
        self._started = 0
        self._latencies: array[float] | None = None
        self.cores = sorted(os.sched_getaffinity(0))
        if len(self.cores) < 2:
            raise CannotRun("two cores are needed: one for the proxy, one for load and model server")

    def __enter__(self) -> Context:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="meshproxy-bench-"))
        self.folder = Path(folder)
        self.credentials: Credentials = make_credentials(self.folder)
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self.cores[1]})
        self._stack.callback(os.sched_setaffinity, 0, before)
        # Thousands of idle connections, here and in the proxies that inherit it.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if self._has_neighbour:
            self._stack.callback(self.start_neighbour().stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def proxy_cores(self, workers: int) -> frozenset[int]:
        """One core for each worker: the first, and those beyond load and model server."""
        return frozenset([self.cores[0], *self.cores[3:][: workers - 1]])

    @property
    def _server_cores(self) -> frozenset[int]:
        """The model server's core: one a separate one where there are three, otherwise the load's."""
        return frozenset(self.cores[2:3] or self.cores[1:2])

    def start_neighbour(self) -> Child:
        """Keeps the proxy's core busy with something else (`neighbour`), until the caller stops it."""
        command = python("-m", "benchmarks.neighbour")
        return Child("neighbour", command, self.proxy_cores(1), self.folder / "neighbour.log")

    def upstream(self, reply_bytes: int) -> Upstream:
        """The model server whose answers are this large, started when first asked for."""
        if reply_bytes not in self._upstreams:
            rest, grpc = free_port(), free_port()
            command = python("-m", "benchmarks.upstream", str(rest), str(grpc), str(reply_bytes))
            child = Child("model server", command, self._server_cores, self.folder / f"upstream-{reply_bytes}.log")
            self._stack.callback(child.stop)
            child.wait_for_port(grpc)
            self._upstreams[reply_bytes] = Upstream(rest, grpc, child)
        return self._upstreams[reply_bytes]

    def start(self, peer: Peer, upstream: Upstream, needs: Needs) -> Running:
        """Starts a peer as a work needs it; the caller stops it.

        Raises:
            CannotRun: it did not start.
        """
        self._started += 1
        folder = self.folder / f"{self._started:03d}-{peer.name}"
        folder.mkdir()
        return peer.start(
            Setting(
                credentials=self.credentials,
                folder=folder,
                cores=frozenset(self.cores) if needs.shares_cores else self.proxy_cores(needs.workers),
                rest_upstream=upstream.rest_port,
                grpc_upstream=upstream.grpc_port,
                rules=needs.rules,
                workers=needs.workers,
                is_plain=needs.is_plain,
                hops=needs.hops,
                resilience=needs.resilience,
                sink=self.sink() if needs.exports else None,
            )
        )

    def sink(self) -> SinkPorts:
        """The collector, started when first asked for."""
        if self._sink is None:
            ports = SinkPorts(free_port(), free_port(), free_port())
            command = python("-m", "benchmarks.sink", str(ports.taking), str(ports.silent))
            child = Child("collector", command, self._server_cores, self.folder / "sink.log")
            self._stack.callback(child.stop)
            child.wait_for_port(ports.silent)
            self._sink = ports
        return self._sink

    def target(
        self, running: Running, port: int | None, *, has_token: bool = True, timeout_ms: int | None = None
    ) -> Target:
        """The target of the load and its client identity; how long each request says that it may take."""
        assert port is not None
        tls = None
        if running.is_tls:
            credentials = self.credentials
            tls = client_tls(
                credentials.bundle, credentials.certificate("client"), credentials.key("client"), checks_name=False
            )
        token = self.credentials.token if has_token else None
        return Target("127.0.0.1", port, tls, None, token, timeout_ms=timeout_ms)

    def keep_latencies(self, latencies: array[float]) -> None:
        """Puts raw values aside for the plot and the histogram of this measurement."""
        self._latencies = latencies

    def take_latencies(self) -> array[float] | None:
        """What the measurement just done has put aside, if it did."""
        taken, self._latencies = self._latencies, None
        return taken
