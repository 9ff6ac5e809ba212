"""How many calls of a model may be under way at its server: a fixed number, or one that is found out.

`GradientLimit` compares what calls take now with what they take when the server is not crowded. As long as there is
little difference, more are let in; what takes much longer is waiting inside the server, where nobody can reorder it,
and fewer are. The idea is that of Netflix' Gradient2 limit and Envoy's adaptive concurrency filter; known faults of
theirs are avoided so:

- The calm latency is measured, not remembered as a minimum or a slow average: whenever no more than half of the limit
  is in use, and otherwise by a *probe*, which lowers the limit to one half for a few calls. A slow average learns the
  overload and lets the limit drift up (Netflix/concurrency-limits pull request 134); a minimum never learns that a
  model has become slower, and Envoy's way of going down to three calls costs more than the measurement is worth.
  A probe that finds the server clearly faster than thought goes down by another half, until it makes no difference;
  so a limit that began far too high is right after one series of probes. The first goes down twice in any case.
- Latencies are averaged by their logarithms and compared with the uncertainty of that average: requests of mixed sizes
  make it careful, not jumpy, and a few huge ones do not matter.
- It grows only while calls are really held up by it, and shrinks only while at least half of it is in use: without load
  it stays where it is.
- It never falls far by mistake: when it has lost half, it probes. If the server was only slower, not crowded, that is
  then the new measure.
- Growth becomes smaller as the tolerance is used up, instead of a constant that is always added.
- Calls that took a constant time because they all ran out of it do not look calm: they count as overload.
"""

from __future__ import annotations

from math import exp, inf, log, sqrt
from typing import Protocol

TOLERANCE = log(1.5)
"""Calls may take half as long again as in a calm server. For a server that works on c calls at a time, which all take
the same, the limit comes to rest at 1.5 c: it is busy all the time, and little waits inside."""
SAMPLES = 20
"""Calls that are watched before anything is concluded, at least."""
PROBE_SAMPLES = 10
"""The same during a probe, which is to be short."""
WINDOW = 0.1
"""Seconds for which calls are watched, at least; and for twice as long as calls take, so that what is seen is what the
limit has brought about."""
OVERLOADED = 0.02
"""Share of calls that the server turned away, or did not answer in time, above which it is overloaded whatever the
others took; a single one is chance."""
MOSTLY = 0.5
"""Share of such calls from which on it is so even if few calls are under way."""
CROWDED = 0.25
"""Share of calls that ended while the limit was reached, from which on it holds calls up."""
PROBE_SOONEST = 1.0
PROBE_LATEST = 30.0
"""Seconds between probes: twice as long after each one that found nothing new."""
PROBE_SHARE = 10
"""Between probes it is at least so many times as long as the last one took: where calls are slow, probes are."""
LEARNING = 0.3
"""How far a measurement moves the calm latency; that of a probe counts whole if it differs by more than chance."""
FASTEST = 1e-6
"""Seconds; what is shorter has no logarithm worth anything."""


class Limit(Protocol):
    """How many may be under way at a time."""

    current: int

    def finished(self, seconds: float, in_flight: int, is_ok: bool, now: float) -> None:
        """A call has ended, and `current` may change.

        Args:
            seconds: how long it was under way.
            in_flight: calls that were, just before it ended; itself among them.
            is_ok: False if it showed that the server has too much to do: it said so, or did not answer in time.
            now: monotonic seconds.
        """


class FixedLimit:
    """Always the same."""

    __slots__ = ("current",)

    def __init__(self, current: int) -> None:
        self.current = current

    def finished(self, seconds: float, in_flight: int, is_ok: bool, now: float) -> None:
        """Nothing changes it."""


class GradientLimit:
    """As many as the server carries without taking much longer for each (see the module).

    `finished` costs 0.2 us; a conclusion is drawn at most ten times a second.
    """

    __slots__ = (
        "_at_last_probe", "_before_probe", "_calm", "_calm_before_probe", "_failed", "_flying", "_full",
        "_ignore_until", "_interval", "_is_draining", "_is_guess", "_is_probing", "_judge_at", "_least", "_limit",
        "_logs", "_lost", "_most", "_ok", "_probe_at", "_probe_began", "_samples", "_seconds", "_squares", "_usual",
        "current",
    )  # fmt: skip

    def __init__(self, initial: int, least: int, most: int) -> None:
        """
        Args:
            initial: where it begins.
            least: it never goes below.
            most: it never goes above.
        """
        self.current = initial
        self._limit = float(initial)
        """What `current` is but for probes; its fractions let small steps add up."""
        self._least = least
        self._most = most
        self._calm: float | None = None
        """Logarithm of what a call takes when the server is not crowded."""
        self._is_guess = False
        """It was measured in a crowd."""
        self._usual = 0.0
        """Seconds that calls took when a conclusion was last drawn."""
        # What was seen since the last conclusion
        self._ok = 0
        self._failed = 0
        self._full = 0
        self._flying = 0
        self._logs = 0.0
        self._squares = 0.0
        self._seconds = 0.0
        self._lost = 0.0
        """Seconds of those that failed."""
        self._samples = SAMPLES
        """Calls that must be seen."""
        self._judge_at = 0.0
        self._ignore_until = 0.0
        """Until then calls end that began under another limit."""
        # Probes
        self._is_probing = False
        self._is_draining = False
        """A probe has begun, and more calls are under way than it allows."""
        self._before_probe = 0.0
        self._calm_before_probe = 0.0
        """What calls took when it began, and what was then thought to be calm; logarithms."""
        self._at_last_probe = self._limit
        self._interval = PROBE_SOONEST
        self._probe_at = 0.0
        self._probe_began = 0.0

    def finished(self, seconds: float, in_flight: int, is_ok: bool, now: float) -> None:
        """A call has ended (`Limit`)."""
        if now < self._ignore_until:
            if self._is_draining and in_flight <= self.current:
                self._is_draining = False
                # If the server was crowded, calls now take half of what they took; if it was not, it does not matter.
                self._begin(now, self._usual / 2)
                self._judge_at = now + self._usual / 2 + WINDOW
            return
        if is_ok:
            took = log(seconds) if seconds > FASTEST else log(FASTEST)
            self._ok += 1
            self._logs += took
            self._squares += took * took
            self._seconds += seconds
        else:
            self._failed += 1
            self._lost += seconds
        self._flying += in_flight
        if in_flight >= self.current:
            self._full += 1
        if now >= self._judge_at and self._ok + self._failed >= self._samples:
            self._judge(now)

    def _begin(self, now: float, settle: float) -> None:
        """Forget what was seen, and watch anew after `settle` seconds."""
        self._ok = self._failed = self._full = self._flying = 0
        self._logs = self._squares = self._seconds = self._lost = 0.0
        self._ignore_until = now + settle
        self._judge_at = now + settle + max(WINDOW, 2.0 * self._usual)

    def _judge(self, now: float) -> None:
        """Enough was seen: conclude."""
        ended = self._ok + self._failed
        flying = self._flying / ended
        is_full = self._full >= CROWDED * ended
        is_calm = flying <= max(self._least, self._limit / 2)
        if self._failed > max(1, OVERLOADED * ended):
            self._overloaded(is_calm and self._failed < MOSTLY * ended, now)
            return
        took = self._logs / self._ok
        spread = max(0.0, self._squares / self._ok - took * took)
        error = 3.0 * sqrt(spread / self._ok)
        if self._is_probing:
            self._probed(took, error, now)
            return
        is_first = self._usual == 0.0
        self._usual = self._seconds / self._ok
        if is_first:
            # Calls were only beginning to pile up.
            self._begin(now, self._usual)
            return
        settle = 0.0
        if self._calm is None:
            # Nothing to compare with yet. Measured in a crowd that is still gathering, it is worth little.
            self._calm = took
            self._is_guess = not is_calm
        elif is_calm:
            self._calm += LEARNING * (took - self._calm)
            if is_full and self._limit <= 2 * flying:
                # At the least: there is no way down to measure at, and it is as calm there as it gets.
                self._grow(took - self._calm)
        elif took < self._calm - max(error, TOLERANCE):
            # Faster in the crowd than it was thought to be without: the server has become faster.
            self._calm = took
            self._probe_at = now
        elif took - self._calm > TOLERANCE + error:
            self._shrink(max(0.5, exp(TOLERANCE + self._calm - took)))
            settle = self._usual
        elif is_full:
            self._grow(took - self._calm)
        if not is_calm and (self._limit <= self._at_last_probe / 2 or (is_full and now >= self._probe_at)):
            self._is_probing = True
            self._before_probe = took
            self._calm_before_probe = self._calm
            self._probe_began = now
            self._samples = PROBE_SAMPLES
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
        """The server turned calls away, or did not answer. An accident is not the limit's fault: most of it is not in
        use, and most calls succeed."""
        self._end_probe()
        if not is_accident:
            # The share of what was under way that was of any use. Their number says less: a server that refuses does so
            # in no time, and is asked again at once.
            useful = self._seconds / (self._seconds + self._lost + FASTEST)
            self._shrink(min(0.9, max(0.5, useful)))
        self._begin(now, 0.0)

    def _probe(self, limit: int) -> None:
        self.current = max(self._least, limit)
        self._is_draining = True
        self._ignore_until = inf

    def _probed(self, took: float, error: float, now: float) -> None:
        """What calls take with half as many under way is known."""
        calm = took if self._calm is None else self._calm
        if self.current > self._least and (self._is_guess or took < calm - max(error, TOLERANCE / 2)):
            # The server was crowded when `calm` was measured. It may still be.
            self._is_guess = False
            self._calm = took
            self._probe(self.current // 2)
            return
        self._calm = took if abs(took - calm) > error else calm + LEARNING * (took - calm)
        has_agreed = abs(self._calm - self._calm_before_probe) <= max(error, TOLERANCE / 4)
        self._interval = min(PROBE_LATEST, self._interval * 2.0) if has_agreed else PROBE_SOONEST
        self._probe_at = now + max(self._interval, PROBE_SHARE * (now - self._probe_began))
        self._end_probe()
        slower = self._before_probe - self._calm
        if slower > TOLERANCE + error:
            self._shrink(exp(TOLERANCE - slower))
        self._at_last_probe = self._limit
        self._begin(now, self._usual)

    def _end_probe(self) -> None:
        self._is_probing = False
        self._samples = SAMPLES
        self.current = int(self._limit)
