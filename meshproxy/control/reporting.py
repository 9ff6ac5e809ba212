"""Reports of sidecars on what came through them: one stream for each, added up in `view.mesh`.

What a sidecar says is its word, whatever it claims: it counts under the identity in its certificate. A report that
cannot be used is counted, and receipted, as it would be no better the next time.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from meshproxy.codec.grpc import frame
from meshproxy.control.channel import Paces, decode
from meshproxy.control.expiries import Expiries
from meshproxy.control_api import REPORT, Count, MeshReport, ReportReceipt, TapOrder, Text
from meshproxy.identity.caller import Workload
from meshproxy.refusal import GrpcStatus
from meshproxy.rollout.drift import INTERVAL, State
from meshproxy.rollout.drift_watch import in_words
from meshproxy.transport.grpc_server import CallFailed
from meshproxy.view.findings import findings
from meshproxy.view.mesh import Mesh
from meshproxy.view.page import mesh_page
from meshproxy.view.ring import FOLDED, FORGOTTEN, NO_SERVER, TOO_OLD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.control.entitlements import Entitlements
    from meshproxy.rollout.drift_watch import Drift
    from meshproxy.telemetry.metrics import Rows
    from meshproxy.transport.grpc_server import Method, ServerCall
    from meshproxy.view.findings import Findings
    from meshproxy.view.page import MeshPage
    from meshproxy.view.reporters import ReporterKey

logger = logging.getLogger(__name__)

EVERY = 5.0
"""Seconds between the reports of one process."""
LONGEST = 30.0
REPORTS_PER_SECOND = 1_000.0
"""Of all sidecars: if there are more than 5,000 each is asked to report less often, up to `LONGEST`."""
HOUR = 3_600.0
REPORT_RATE = 50.0
REPORT_BURST = 1_000.0
"""Streams and reports of one identity at one address, a second: all workers of a sidecar report on its stream, and what
has waited for a control plane comes at once."""
MOST_ORDERS = 8
"""To show calls, that wait for a sidecar to read."""
MOST_PROCESSES = 1_024
"""That report on one stream, and runs of them that wait for a receipt: a supervisor has a worker for each core."""


class _Envelope(msgspec.Struct, frozen=True):
    """What is read of a report that cannot be used."""

    run: Text
    sequence: Count


class ReportStream:
    """The stream of one sidecar.

    Attributes:
        workload: whose it is.
        keys: the processes that have reported on it.
        orders: to show calls, that it has not been given yet.
    """

    __slots__ = ("call", "due", "keys", "orders", "workload")

    def __init__(self, call: ServerCall, workload: Workload) -> None:
        self.call = call
        self.workload = workload
        self.keys: tuple[ReporterKey, ...] = ()  # most have one: 170 bytes less than a set, of thousands of streams
        self.due: dict[str, int] = {}
        """Receipts: the last report, by run."""
        self.orders: tuple[TapOrder, ...] = ()

    def order(self, order: TapOrder) -> None:
        """Have the sidecar show calls. One of an earlier version reads over it."""
        self.orders = (*self.orders, order)[-MOST_ORDERS:]
        self.call.wake()

    def take(self, every: float) -> bytes:
        """What is to be sent, framed."""
        due = [ReportReceipt(run, last, every) for run, last in self.due.items()]
        due += [ReportReceipt("", 0, every, order) for order in self.orders]
        self.due.clear()
        self.orders = ()
        return b"".join(frame(msgspec.json.encode(receipt)) for receipt in due)


class ReportService:
    """Takes the reports of sidecars.

    Args:
        clock: seconds since the epoch.
        entitlements: who is a model server, whose word counts for calls of others; None: sidecars have their documents
            from elsewhere, and everybody's does.
        drift_interval: seconds of a reading of a model, at least.

    Attributes:
        mesh: what they come to.
        streams: of the sidecars that are connected, the first to come first.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        entitlements: Entitlements | None = None,
        drift_interval: float = INTERVAL,
    ) -> None:
        self.mesh = Mesh(drift_interval)
        self._entitlements = entitlements
        self.mesh.on_drift = _log
        self._clock = clock
        self._paces = Paces(REPORT_RATE, REPORT_BURST)
        self._expiries = Expiries()
        self.streams: dict[ReportStream, None] = {}

    @property
    def methods(self) -> dict[bytes, Method]:
        """For `GrpcServer`."""
        return {REPORT: self.report}

    @property
    def every(self) -> float:
        """Seconds between reports that sidecars are asked for."""
        return min(max(EVERY, len(self.streams) / REPORTS_PER_SECOND), LONGEST)

    async def report(self, call: ServerCall) -> None:
        """`Mesh/Report`."""
        workload = call.info.peer
        if not isinstance(workload, Workload):
            raise CallFailed(GrpcStatus.UNAUTHENTICATED, "reports are of sidecars that show their certificate")
        stream = ReportStream(call, workload)
        self.streams[stream] = None
        self._expiries.add(call, workload, self._clock())
        try:
            while True:
                while (message := call.take()) is not None:
                    self._take(stream, message)
                if (stream.due or stream.orders) and call.is_drained:
                    call.post(stream.take(self.every))
                if call.has_ended:
                    break
                await call.wait()
        finally:
            del self.streams[stream]
            self._expiries.discard(call)
            if call.has_ended:
                self._ended(stream)

    def _ended(self, stream: ReportStream) -> None:
        """The sidecar stops: take the last that it has said, although it does not wait for the receipt."""
        with suppress(CallFailed):
            while (message := stream.call.take()) is not None:
                self._take(stream, message)
        for key in stream.keys:
            self.mesh.reporters.stop(key)

    def _take(self, stream: ReportStream, message: bytes) -> None:
        """Raises CallFailed."""
        now = self._clock()
        workload = stream.workload
        self._paces.check(stream.call, workload, "reports", now)
        if self._entitlements is not None and not self._entitlements.are_known:
            raise CallFailed(GrpcStatus.UNAVAILABLE, "the documents are not known yet: keep the reports")
        try:
            report = msgspec.json.decode(message, type=MeshReport)
        except (msgspec.DecodeError, RecursionError):
            envelope = decode(message, _Envelope)
            self.mesh.reporters.malformed += 1
            stream.due[envelope.run] = envelope.sequence
        else:
            is_server = self._entitlements is None or self._entitlements.is_server(workload)
            key = self.mesh.take(workload.spiffe_id, report, self.every, now, is_server=is_server)
            if key not in stream.keys:
                stream.keys += (key,)
            stream.due[report.run] = report.sequence
        if max(len(stream.keys), len(stream.due)) > MOST_PROCESSES:
            raise CallFailed(GrpcStatus.RESOURCE_EXHAUSTED, f"more than {MOST_PROCESSES} processes on one stream")

    def page(self, seconds: float) -> MeshPage:
        """The page `/mesh`, of so many seconds."""
        return mesh_page(self.mesh, seconds, self._clock())

    def findings(self, documents: Sequence[object]) -> Findings:
        """The page `/findings`."""
        now = self._clock()
        return findings(
            self.mesh.ring.window(HOUR, now), self.mesh.reports(now), documents, self.mesh.drift.raised(now)
        )

    def count_reports(self) -> Rows:
        """For `metric_table.MESH_REPORTS`."""
        known = self.mesh.reporters
        yield ("taken",), known.received
        yield ("repeated",), known.repeated
        yield ("late",), known.late
        yield ("lost",), known.lost
        yield ("malformed",), known.malformed
        yield ("unwatched",), known.forgotten

    def drift_alarms(self) -> Rows:
        """For `metric_table.DRIFT_ALARM`."""
        for watched, signal, found in self.mesh.drift.found(self._clock()):
            if found.state is not State.LEARNING:
                yield (*watched, signal.value), int(found.state is State.RAISED)

    def drift_levels(self) -> Rows:
        """For `metric_table.DRIFT_LEVEL`."""
        for watched, signal, found in self.mesh.drift.found(self._clock()):
            yield (*watched, signal.value), found.level or 0.0

    def drift_expected(self) -> Rows:
        """For `metric_table.DRIFT_EXPECTED`."""
        for watched, signal, found in self.mesh.drift.found(self._clock()):
            yield (*watched, signal.value), found.expected or 0.0

    def count_unwatched(self) -> Rows:
        """For `metric_table.DRIFT_UNWATCHED`."""
        yield (), self.mesh.drift.unwatched

    def count_reporters(self) -> Rows:
        """For `metric_table.MESH_REPORTERS`."""
        return [((state.value,), count) for state, count in self.mesh.reporters.count(self._clock()).items()]

    def count_dropped(self) -> Rows:
        """For `metric_table.MESH_DROPPED`."""
        dropped = self.mesh.ring.dropped
        return [((reason,), dropped[reason]) for reason in (FOLDED, FORGOTTEN, TOO_OLD, NO_SERVER)]


def _log(drift: Drift) -> None:
    """Once when it begins, and when it is over."""
    is_raised = drift.found.state is State.RAISED
    fields = {
        "model": drift.watched.model,
        "version": drift.watched.version,
        "direction": drift.watched.direction,
        "signal": drift.signal.value,
        "detail": in_words(drift),
    }
    message = "a model has changed" if is_raised else "a model is as before again"
    logger.log(logging.WARNING if is_raised else logging.INFO, message, extra={"fields": fields})
