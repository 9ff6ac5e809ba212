"""`Mesh/Tap`: calls of chosen sidecars as they end, for somebody at the web port.

An order goes to each sidecar on the stream of its reports; its lines come on a stream of their own, which ends with the
tap. What a tap costs is bounded here as it is in the sidecar (`live_pages`), which also decides what may be seen.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, deque
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import msgspec

from meshproxy.config.globs import compile_glob
from meshproxy.control.channel import decode
from meshproxy.control.fleet import short_identity
from meshproxy.control_api import TAP, TAP_QUERY_CHARACTERS, TapLines, TapOrder
from meshproxy.identity.caller import Workload
from meshproxy.refusal import GrpcStatus
from meshproxy.routing.rate_limit import Bucket
from meshproxy.telemetry.call_filter import MOST_CHARACTERS, MOST_STARS, CallFilter
from meshproxy.transport.grpc_server import CallFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from meshproxy.control.reporting import ReportService, ReportStream
    from meshproxy.telemetry.control_metrics import ControlMetrics
    from meshproxy.telemetry.metrics import Rows
    from meshproxy.transport.grpc_server import Method, ServerCall

MOST_TAPS = 4
"""At once."""
MOST_SIDECARS = 50
"""Of one tap: further ones that match are counted, and not asked."""
DEFAULT_RATE, MOST_RATE = 100, 200
"""Calls a second, of all sidecars of a tap together; none of them sends more either. 50 that send 200 each take a
fifth of a core."""
LONGEST = 600.0
"""Seconds until a tap ends by itself."""
MOST_GLOBS = 16
FIRST_SECONDS = 10.0
"""In which a stream says which tap it is of."""
WAITING_LINES = 1_000
WAITING_BYTES = 4 << 20
"""That the reader has not taken; what comes meanwhile is left out. A line is some 600 bytes."""
PROBLEMS_TOLD = 10
MOST_PROCESSES = 1_000
MOST_COUNT = 2**53
"""Of what is added up of what sidecars say that they left out."""
SHOWN, OVER_RATE, UNREAD, NOT_ORDERED = "shown", "over-rate", "unread", "not-ordered"
"""What becomes of lines; the last: of a tap that has ended, or of a sidecar that was not asked."""


class TapRefused(Exception):
    """A tap is not begun. The message says why.

    Attributes:
        is_busy: it may be tried again.
    """

    def __init__(self, message: str, *, is_busy: bool = False) -> None:
        super().__init__(message)
        self.is_busy = is_busy


class Tap:
    """One tap.

    Attributes:
        id: of its orders.
        matched: sidecars that were meant.
        asked: the identities of those that were asked, with how many of each.
        ends_at: by `time.monotonic`.
    """

    def __init__(self, asked: Sequence[ReportStream], matched: int, rate: int, ends_at: float) -> None:
        self.id = secrets.token_hex(8)
        self.matched = matched
        self.asked = Counter(stream.workload.spiffe_id for stream in asked)
        self.ends_at = ends_at
        self.is_closed = False
        self.counts: Counter[str] = Counter()
        self.calls: set[ServerCall] = set()
        """Of the sidecars that show calls."""
        self._answered: Counter[str] = Counter()
        self._problems: dict[str, None] = {}
        self._left_out: dict[tuple[ServerCall, int], tuple[int, int]] = {}
        """What each process says that it left out itself: above its rate, and not read."""
        self._bucket = Bucket(rate, rate)
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._told = b""
        self.woken = asyncio.Event()

    def join(self, call: ServerCall, spiffe_id: str) -> bool:
        """A sidecar begins to show calls. Returns whether it was asked."""
        if self.is_closed or self._answered[spiffe_id] >= self.asked[spiffe_id]:
            return False
        self._answered[spiffe_id] += 1
        self.calls.add(call)
        self.woken.set()
        return True

    def add(self, call: ServerCall, who: str, said: TapLines, now: float) -> None:
        """Take what a sidecar says. `now`: by `time.monotonic`."""
        self.woken.set()
        if said.problem and len(self._problems) < PROBLEMS_TOLD:
            self._problems[f"{short_identity(who)}: {said.problem}"] = None
        for line in said.lines:
            if "tap" in line:
                self._leave_out((call, said.worker), line["tap"])
            elif len(self._lines) >= WAITING_LINES or self._waiting_bytes >= WAITING_BYTES:
                self.counts[UNREAD] += 1
            elif self._bucket.take(1.0, now):
                self.counts[OVER_RATE] += 1
            else:
                self.counts[SHOWN] += 1
                found = msgspec.json.encode({**line, "sidecar": who, "sidecar_host": call.info.remote})
                self._lines.append(found)
                self._waiting_bytes += len(found)

    def _leave_out(self, process: tuple[ServerCall, int], told: object) -> None:
        """What a process says that it left out itself."""
        found = [told.get(name) for name in ("overRate", "unread")] if isinstance(told, dict) else []
        counts = [count for count in found if isinstance(count, int) and 0 <= count < MOST_COUNT]
        if len(counts) == 2 and (process in self._left_out or len(self._left_out) < MOST_PROCESSES):
            self._left_out[process] = counts[0], counts[1]

    def take(self) -> bytes:
        """Lines of JSON that are to be told: calls, then the counts if they have changed."""
        self.woken.clear()
        lines = [*self._lines]
        self._lines.clear()
        self._waiting_bytes = 0
        told = msgspec.json.encode({"tap": self._told_counts()})
        if told != self._told:
            self._told = told
            lines.append(told)
        return b"".join(line + b"\n" for line in lines)

    def _told_counts(self) -> dict[str, object]:
        return {
            "shown": self.counts[SHOWN],
            "overRate": self.counts[OVER_RATE] + sum(over for over, _ in self._left_out.values()),
            "unread": self.counts[UNREAD] + sum(unread for _, unread in self._left_out.values()),
            "sidecars": {
                "matched": self.matched,
                "asked": self.asked.total(),
                "answered": self._answered.total(),
            },
            "problems": list(self._problems),
        }


class TapService:
    """The taps of one control plane.

    Args:
        reports: has the sidecars that are connected.
        clock: seconds that do not go back.
    """

    def __init__(
        self, reports: ReportService, metrics: ControlMetrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._reports = reports
        self._metrics = metrics
        self._clock = clock
        self._taps: dict[str, Tap] = {}
        self._counts: Counter[str] = Counter()
        """Of taps that have ended, and lines that belong to none."""

    @property
    def methods(self) -> dict[bytes, Method]:
        """For `GrpcServer`."""
        return {TAP: self.take}

    def open(
        self,
        fields: Iterable[tuple[str, str]],
        sidecars: Sequence[str],
        *,
        rate: int = DEFAULT_RATE,
        seconds: float = LONGEST,
        hide_callers: bool = False,
    ) -> Tap:
        """Have sidecars show calls.

        Args:
            fields: which calls (`call_filter`).
            sidecars: globs over SPIFFE ID, NAMESPACE/ACCOUNT, document and host; empty: all.
            rate: calls a second, of all together.
            seconds: for how long.
            hide_callers: without who calls.

        Raises:
            TapRefused: there are too many taps, or what is asked for cannot be read.
        """
        fields = list(fields)
        if not (1 <= rate <= MOST_RATE and 1 <= seconds <= LONGEST):
            raise TapRefused(f"expected a rate of 1 to {MOST_RATE} and 1 to {LONGEST:g} seconds")
        try:
            CallFilter(fields)
        except ValueError as error:
            raise TapRefused(str(error)) from None
        more = [("rate", str(rate)), *([("identities", "hidden")] if hide_callers else [])]
        query = urlencode([*fields, *more])
        if len(query) > TAP_QUERY_CHARACTERS:
            raise TapRefused(f"the filters are longer than {TAP_QUERY_CHARACTERS} characters together")
        if len(self._taps) >= MOST_TAPS:
            self._metrics.limits_exceeded.labels("control", "taps").value += 1
            raise TapRefused(f"there are {MOST_TAPS} taps: end one of them", is_busy=True)
        found = self._choose(sidecars)
        asked = found[:MOST_SIDECARS]
        tap = Tap(asked, len(found), rate, self._clock() + seconds)
        self._taps[tap.id] = tap
        for stream in asked:
            stream.order(TapOrder(tap.id, query, seconds))
        return tap

    def _choose(self, sidecars: Sequence[str]) -> list[ReportStream]:
        """Raises TapRefused."""
        if len(sidecars) > MOST_GLOBS or any(
            len(glob) > MOST_CHARACTERS or glob.count("*") > MOST_STARS for glob in sidecars
        ):
            raise TapRefused(f"expected at most {MOST_GLOBS} sidecars, of {MOST_CHARACTERS} characters and few stars")
        globs = [compile_glob(glob) for glob in sidecars]
        return [
            stream
            for stream in self._reports.streams
            if not globs or any(glob(name) for glob in globs for name in _names(stream))
        ]

    def close(self, tap: Tap) -> None:
        """End a tap: its sidecars show no more."""
        if self._taps.pop(tap.id, None) is not None:
            tap.is_closed = True
            tap.woken.set()
            self._counts.update(tap.counts)
            for call in tap.calls:
                call.wake()

    def stop(self) -> None:
        """End all taps: nobody waits for those who look."""
        for tap in list(self._taps.values()):
            self.close(tap)

    async def take(self, call: ServerCall) -> None:
        """`Mesh/Tap`."""
        workload = call.info.peer
        if not isinstance(workload, Workload):
            raise CallFailed(GrpcStatus.UNAUTHENTICATED, "calls are shown by sidecars that show their certificate")
        async with asyncio.timeout(FIRST_SECONDS):
            first = await anext(call, None)
        if first is None:
            return
        tap = self._join(call, workload, decode(first, TapLines))
        try:
            while not tap.is_closed:
                while (message := call.take()) is not None:
                    said = decode(message, TapLines)
                    if said.id != tap.id:
                        raise CallFailed(GrpcStatus.INVALID_ARGUMENT, "a stream is of one tap")
                    tap.add(call, workload.spiffe_id, said, self._clock())
                if call.has_ended:
                    break
                await call.wait()
        finally:
            tap.calls.discard(call)

    def _join(self, call: ServerCall, workload: Workload, said: TapLines) -> Tap:
        """Raises CallFailed: nobody wants to see it."""
        tap = self._taps.get(said.id)
        if tap is None or not tap.join(call, workload.spiffe_id):
            self._counts[NOT_ORDERED] += len(said.lines)
            raise CallFailed(GrpcStatus.NOT_FOUND, "nobody has asked this sidecar for calls, or not any more")
        tap.add(call, workload.spiffe_id, said, self._clock())
        return tap

    def count_lines(self) -> Rows:
        """For `metric_table.TAP_LINES`."""
        total = sum((tap.counts for tap in self._taps.values()), Counter(self._counts))
        return [((what,), total[what]) for what in (SHOWN, OVER_RATE, UNREAD, NOT_ORDERED)]

    def count_taps(self) -> Rows:
        """For `metric_table.TAPS`."""
        return [((), len(self._taps))]


def _names(stream: ReportStream) -> Iterable[str]:
    """What a sidecar is called."""
    yield stream.workload.spiffe_id
    yield short_identity(stream.workload.spiffe_id)
    for key in stream.keys:
        yield key.sidecar
        yield key.host
