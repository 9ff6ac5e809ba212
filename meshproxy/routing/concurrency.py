"""Concurrency limits of a model's calls: a fixed number, or an adaptive one.

`GradientLimit` compares the current latency with that of an unloaded server. As long as they differ little, more calls
are admitted; calls that take much longer are queued inside the server, where nothing can reorder them, and fewer are
admitted. The idea is that of Netflix' Gradient2 limit and Envoy's adaptive concurrency filter. Their known faults are
avoided:

- The baseline latency is measured, not remembered as a minimum or a slow average: whenever no more than half of the
  limit is in use, and otherwise by a *probe*, which lowers the limit to one half for a few calls. A slow average learns
  the overload and lets the limit drift up (Netflix/concurrency-limits pull request 134); a minimum never learns that a
  model has become slower, and Envoy's way of going down to three calls costs more than the measurement is worth.
  A probe that finds the server clearly faster than expected goes down by another half, until it makes no difference;
  so a limit that began far too high is right after one series of probes. The first goes down twice in any case.
- Latencies are averaged by their logarithms and compared with the uncertainty of that average: requests of mixed sizes
  make it careful, not jumpy, and a few huge ones do not matter.
- It grows only while it really delays calls, and shrinks only while at least half of it is in use: without load it does
  not change.
- It never falls far by mistake: when it has lost half, it probes. If the server was only slower, not loaded, that is
  then the new baseline latency.
- Growth becomes smaller as the tolerance is used up; nothing constant is always added.
- Calls that took a constant time because they all timed out do not count as unloaded: they count as overload.
"""

from __future__ import annotations

from enum import Enum
from math import exp, inf, log, sqrt
from typing import Protocol

TOLERANCE = log(1.5)
"""Calls may take half as long again as in an unloaded server. For a server that works on c equal calls at a time, the
limit settles at 1.5 c: the server is always busy, and few calls are queued inside."""
SAMPLES = 20
"""Fewest calls for a conclusion."""
PROBE_SAMPLES = 10
"""The same during a probe, which should be short."""
WINDOW = 0.1
"""Seconds of samples for a conclusion, at least; and twice the latency, so that the samples show the effect of the
limit."""
OVERLOADED = 0.02
"""Share of calls that the server refused, or did not answer in time, above which it is overloaded whatever the latency
of the others; a single one is chance."""
MOSTLY = 0.5
"""Share of such calls from which on it is overloaded even if few calls are in flight."""
CROWDED = 0.25
"""Share of calls that ended while the limit was reached, from which on it delays calls."""
PROBE_SOONEST = 1.0
PROBE_LATEST = 30.0
"""Seconds between probes: twice as long after each one that found nothing new."""
PROBE_SHARE = 10
"""The time between probes is at least this many times the duration of the last one."""
LEARNING = 0.3
"""Weight of a measurement in the baseline latency; that of a probe replaces it if it differs by more than chance."""
FASTEST = 1e-6
"""Seconds; shorter calls count as this long, as their logarithm is meaningless."""


class Limit(Protocol):
    """The most calls in flight."""

    current: int

    def finished(self, seconds: float, in_flight: int, is_ok: bool, now: float) -> None:
        """A call has ended, and `current` may change.

        Args:
            seconds: its duration.
            in_flight: calls in flight just before it ended, including itself.
            is_ok: False if it showed that the server is overloaded: it refused, or did not answer in time.
            now: monotonic seconds.
        """


class FixedLimit:
    """A constant limit."""

    __slots__ = ("current",)

    def __init__(self, current: int) -> None:
        self.current = current

    def finished(self, seconds: float, in_flight: int, is_ok: bool, now: float) -> None:
        """Nothing changes it."""


class _Phase(Enum):
    """What a `GradientLimit` is doing."""

    WATCHING = "watching"
    """Calls are measured under the limit."""
    DRAINING = "draining"
    """A probe has lowered the limit, and more calls are in flight than it allows: those that end do not count."""
    PROBING = "probing"
    """Calls are measured under the lowered limit."""


class _Samples:
    """The calls that ended since the last conclusion."""

    __slots__ = ("failed", "flying", "full", "logs", "lost", "ok", "seconds", "squares")

    def __init__(self) -> None:
        self.ok = 0
        self.failed = 0
        self.full = 0
        """Calls that ended while the limit was reached."""
        self.flying = 0
        """Calls in flight, summed over the calls that ended."""
        self.logs = 0.0
        self.squares = 0.0
        """Logarithms of the seconds of successful calls, and their squares, summed."""
        self.seconds = 0.0
        """Of successful calls."""
        self.lost = 0.0
        """Of failed calls."""


class GradientLimit:
    """An adaptive limit: as many calls as the server carries without its latency rising much (see the module).

    `finished` costs 0.2 us; a conclusion is drawn at most ten times a second.
    """

    __slots__ = (
        "_at_last_probe", "_baseline", "_baseline_before_probe", "_before_probe", "_ignore_until", "_interval",
        "_is_guess", "_judge_at", "_least", "_limit", "_most", "_needed", "_phase", "_probe_at", "_probe_began",
        "_seen", "_usual", "current",
    )  # fmt: skip

    def __init__(self, initial: int, least: int, most: int) -> None:
        """
        Args:
            initial: the first limit.
            least: the lowest limit.
            most: the highest limit.
        """
        self.current = initial
        self._limit = float(initial)
        """`current` outside of probes, with fractions, so that small steps add up."""
        self._least = least
        self._most = most
        self._baseline: float | None = None
        """Logarithm of a call's seconds when the server is not loaded."""
        self._is_guess = False
        """`_baseline` was measured under load."""
        self._usual = 0.0
        """Mean seconds of a call at the last conclusion."""
        self._phase = _Phase.WATCHING
        self._seen = _Samples()
        self._needed = SAMPLES
        """Calls that must be seen before a conclusion."""
        self._judge_at = 0.0
        self._ignore_until = 0.0
        """Calls that end before then began under another limit."""
        # Probes
        self._before_probe = 0.0
        self._baseline_before_probe = 0.0
        """The latency when it began, and what was then the baseline; logarithms."""
        self._at_last_probe = self._limit
        self._interval = PROBE_SOONEST
        self._probe_at = 0.0
        self._probe_began = 0.0

    def finished(self, seconds: float, in_flight: int, is_ok: bool, now: float) -> None:
        """A call has ended (`Limit`)."""
        if now < self._ignore_until:
            if self._phase is _Phase.DRAINING and in_flight <= self.current:
                self._phase = _Phase.PROBING
                # If the server was loaded, calls now take half of what they took; if it was not, it does not matter.
                self._begin(now, self._usual / 2)
                self._judge_at = now + self._usual / 2 + WINDOW
            return
        seen = self._seen
        if is_ok:
            took = log(seconds) if seconds > FASTEST else log(FASTEST)
            seen.ok += 1
            seen.logs += took
            seen.squares += took * took
            seen.seconds += seconds
        else:
            seen.failed += 1
            seen.lost += seconds
        seen.flying += in_flight
        if in_flight >= self.current:
            seen.full += 1
        if now >= self._judge_at and seen.ok + seen.failed >= self._needed:
            self._judge(now)

    def _begin(self, now: float, settle: float) -> None:
        """Start new samples after `settle` seconds."""
        self._seen = _Samples()
        self._ignore_until = now + settle
        self._judge_at = now + settle + max(WINDOW, 2.0 * self._usual)

    def _judge(self, now: float) -> None:
        """There are enough samples: conclude."""
        seen = self._seen
        ended = seen.ok + seen.failed
        flying = seen.flying / ended
        is_full = seen.full >= CROWDED * ended
        is_unloaded = flying <= max(self._least, self._limit / 2)
        if seen.failed > max(1, OVERLOADED * ended):
            self._overloaded(is_unloaded and seen.failed < MOSTLY * ended, now)
            return
        took = seen.logs / seen.ok
        spread = max(0.0, seen.squares / seen.ok - took * took)
        error = 3.0 * sqrt(spread / seen.ok)
        if self._phase is _Phase.PROBING:
            self._probed(took, error, now)
            return
        is_first = self._usual == 0.0
        self._usual = seen.seconds / seen.ok
        if is_first:
            # Calls were only beginning to pile up.
            self._begin(now, self._usual)
            return
        settle = 0.0
        if self._baseline is None:
            # Nothing to compare with yet. Measured while the load is still rising, it is worth little.
            self._baseline = took
            self._is_guess = not is_unloaded
        elif is_unloaded:
            self._baseline += LEARNING * (took - self._baseline)
            if is_full and self._limit <= 2 * flying:
                # At the least: there is no way down to measure at, and the load gets no lower than that.
                self._grow(took - self._baseline)
        elif took < self._baseline - max(error, TOLERANCE):
            # Faster under load than it was thought to be without: the server has become faster.
            self._baseline = took
            self._probe_at = now
        elif took - self._baseline > TOLERANCE + error:
            self._shrink(max(0.5, exp(TOLERANCE + self._baseline - took)))
            settle = self._usual
        elif is_full:
            self._grow(took - self._baseline)
        if not is_unloaded and (self._limit <= self._at_last_probe / 2 or (is_full and now >= self._probe_at)):
            self._before_probe = took
            self._baseline_before_probe = self._baseline
            self._probe_began = now
            self._needed = PROBE_SAMPLES
            self._probe(int(self._limit / 2 + 0.5))
        else:
            self._begin(now, settle)

    def _grow(self, slower: float) -> None:
        share = min(1.0, 1.0 - slower / TOLERANCE)
        if share > 0.0:
            self._limit = min(float(self._most), self._limit + share * sqrt(self._limit))
            self.current = int(self._limit)

    def _shrink(self, factor: float) -> None:
        self._limit = max(float(self._least), self._limit * factor)
        self.current = int(self._limit)

    def _overloaded(self, is_accident: bool, now: float) -> None:
        """The server refused calls, or did not answer in time. An accident is not due to the limit: most of it is
        unused, and most calls succeed."""
        self._end_probe()
        if not is_accident:
            # The share of time that led to an answer. The number of refusals says less: a server refuses at once, and
            # is called again at once.
            useful = self._seen.seconds / (self._seen.seconds + self._seen.lost + FASTEST)
            self._shrink(min(0.9, max(0.5, useful)))
        self._begin(now, 0.0)

    def _probe(self, limit: int) -> None:
        self.current = max(self._least, limit)
        self._phase = _Phase.DRAINING
        self._ignore_until = inf

    def _probed(self, took: float, error: float, now: float) -> None:
        """The latency with half as many calls in flight is known."""
        baseline = took if self._baseline is None else self._baseline
        if self.current > self._least and (self._is_guess or took < baseline - max(error, TOLERANCE / 2)):
            # The server was loaded when `baseline` was measured. It may still be.
            self._is_guess = False
            self._baseline = took
            self._probe(self.current // 2)
            return
        self._baseline = took if abs(took - baseline) > error else baseline + LEARNING * (took - baseline)
        has_agreed = abs(self._baseline - self._baseline_before_probe) <= max(error, TOLERANCE / 4)
        self._interval = min(PROBE_LATEST, self._interval * 2.0) if has_agreed else PROBE_SOONEST
        self._probe_at = now + max(self._interval, PROBE_SHARE * (now - self._probe_began))
        self._end_probe()
        slower = self._before_probe - self._baseline
        if slower > TOLERANCE + error:
            self._shrink(exp(TOLERANCE - slower))
        self._at_last_probe = self._limit
        self._begin(now, self._usual)

    def _end_probe(self) -> None:
        self._phase = _Phase.WATCHING
        self._needed = SAMPLES
        self.current = int(self._limit)
