"""Runs works: peers take turns in each round, so that the load of the machine affects all alike."""

from __future__ import annotations

import gc
import resource
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import uvloop

from benchmarks.machine import Mood
from benchmarks.processes import CannotRun
from benchmarks.works.refusals import check_refusals
from benchmarks.works.work import Failed, Figures, Pace

if TYPE_CHECKING:
    from benchmarks.context import Context, Upstream
    from benchmarks.peers.peer import Peer, Running
    from benchmarks.profiling import Profiler
    from benchmarks.works.work import Work

PROFILED = "meshproxy"
OTHERS_BOUND = 0.1
"""Share of the machine that other processes may take: beyond it, latencies are theirs."""

Progress = Callable[[str, int, int, str], None]
"""Called with the work, the round (from 0), the number of rounds and the peer, before each measurement."""


@dataclass(slots=True)
class Measured:
    """What the rounds of one work found."""

    work: str
    question: str
    headline: tuple[str, ...]
    figures: dict[str, list[Figures]] = field(default_factory=dict)
    """By peer: one entry per round."""
    failures: dict[str, str] = field(default_factory=dict)
    """By peer: why there are no (further) figures."""
    latencies: dict[str, array[float]] = field(default_factory=dict)
    """By peer: every latency of all rounds, in seconds."""
    not_run: str | None = None
    """Why nothing was measured, although nothing failed."""

    def series(self, peer: str, figure: str) -> list[float]:
        """One figure of one peer, round by round."""
        return [figures[figure] for figures in self.figures.get(peer, []) if figure in figures]

    def of_machine(self, share: str) -> float | None:
        """What the machine was busy with (see `machine.Mood`): the median of all measurements."""
        values = [value for peer in self.figures for value in self.series(peer, f"machine_{share}")]
        return median(values) if values else None

    def disturbance(self) -> str | None:
        """Why latencies of this work say little, if so."""
        others = self.of_machine("others")
        if others is None or others <= OTHERS_BOUND:
            return None
        return f"other processes took {others:.0%} of the machine, more than {OTHERS_BOUND:.0%}"


@dataclass(frozen=True, slots=True)
class Runner:
    """What all works of a run have in common."""

    context: Context
    peers: dict[str, Peer]
    rounds: int
    pace: Pace
    progress: Progress
    profiler: Profiler | None = None
    """Records meshproxy's process in the first round of each work."""

    def run(self, work: Work) -> Measured:
        """One work, all peers, all rounds. A peer that fails is left out from then on; the result says why."""
        measured = Measured(work.name, work.question, work.headline)
        cores = len(self.context.cores)
        if cores < work.needs_cores:
            measured.not_run = f"needs {work.needs_cores} cores, this machine has {cores}"
            return measured
        rounds = min(self.rounds, work.at_most_rounds or self.rounds)
        upstream = self.context.upstream(work.traffic.reply)
        running: dict[str, Running] = {}
        with _stopping(running):
            for name in work.peers:
                if name in self.peers:
                    with _recording(measured, name, running):
                        running[name] = self.context.start(self.peers[name], upstream, work)
                        uvloop.run(check_refusals(self.context, running[name], work.traffic.protocol))
            for number in range(rounds):
                names = [name for name in running if name not in measured.failures]
                # In alternating order: no peer is always the one after the idle pause.
                for name in names if number % 2 == 0 else reversed(names):
                    self.progress(work.name, number, rounds, name)
                    with _recording(measured, name, running):
                        if work.is_fresh:
                            _stop(running[name])
                            running[name] = self.context.start(self.peers[name], upstream, work)
                        figures = self._measure(work, upstream, name, running[name], is_first=number == 0)
                        measured.figures.setdefault(name, []).append(figures)
                        kept = self.context.take_latencies()
                        if kept is not None:
                            measured.latencies.setdefault(name, array("d")).extend(kept)
        return measured

    def _measure(self, work: Work, upstream: Upstream, name: str, running: Running, *, is_first: bool) -> Figures:
        gc.collect()
        profiler = self.profiler if is_first and name == PROFILED else None
        mood = Mood(_our_cpu(upstream, running))
        if profiler is not None and running.child is not None:
            profiler.start(running.child.pid)
        try:
            figures = uvloop.run(work.measure(self.context, upstream, running, self.pace))
        finally:
            if profiler is not None:
                profiler.stop()
        return figures | mood.since(_our_cpu(upstream, running))


def _our_cpu(upstream: Upstream, running: Running) -> float:
    """CPU seconds of everything that belongs to a measurement, tools that it has waited for included."""
    tools = resource.getrusage(resource.RUSAGE_CHILDREN)
    proxy = running.child.cpu() if running.child is not None else 0.0
    return time.process_time() + tools.ru_utime + tools.ru_stime + upstream.child.cpu() + proxy


@contextmanager
def _recording(measured: Measured, peer: str, running: dict[str, Running]) -> Iterator[None]:
    """Turns what may go wrong into the reason that is written into the result."""
    try:
        yield
    except (CannotRun, Failed, OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        child = running[peer].child if peer in running else None
        if child is not None and not child.is_running:
            reason += f"; the process ended:\n{child.said()}"
        measured.failures[peer] = reason


@contextmanager
def _stopping(running: dict[str, Running]) -> Iterator[None]:
    try:
        yield
    finally:
        for started in running.values():
            _stop(started)


def _stop(started: Running) -> None:
    if started.child is not None:
        started.child.stop()
