"""Runs works: peers take turns, round after round, so that the machine's mood falls on all alike."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import uvloop

from benchmarks.machine import Mood
from benchmarks.processes import CannotRun
from benchmarks.works.refusals import check_refusals
from benchmarks.works.work import Failed, Figures, Pace

if TYPE_CHECKING:
    from benchmarks.context import Context
    from benchmarks.peers.peer import Peer, Running
    from benchmarks.works.work import Work


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
    mood: dict[str, float] = field(default_factory=dict)

    def series(self, peer: str, figure: str) -> list[float]:
        """One figure of one peer, round by round."""
        return [figures[figure] for figures in self.figures.get(peer, []) if figure in figures]


Progress = Callable[[str, int, int, str], None]
"""Called with the work, the round (from 0), the number of rounds and the peer, before each measurement."""


def run_work(
    context: Context, work: Work, peers: dict[str, Peer], rounds: int, pace: Pace, progress: Progress
) -> Measured:
    """One work, all peers, all rounds. A peer that fails is left out from then on; its reason stands in the result."""
    measured = Measured(work.name, work.question, work.headline)
    mood = Mood()
    upstream = context.upstream(work.traffic.reply)
    running: dict[str, Running] = {}
    rounds = min(rounds, work.at_most_rounds or rounds)
    with _stopping(running):
        for name in work.peers:
            if name not in peers:
                continue
            try:
                running[name] = context.start(peers[name], upstream, work.rules)
                uvloop.run(check_refusals(context, running[name], work.traffic.protocol))
            except (CannotRun, Failed, OSError, TimeoutError) as error:
                measured.failures[name] = str(error) or type(error).__name__
        for number in range(rounds):
            names = [name for name in running if name not in measured.failures]
            # Turned around every other round: nobody is always the one after the idle pause.
            for name in names if number % 2 == 0 else reversed(names):
                progress(work.name, number, rounds, name)
                try:
                    if work.is_fresh:
                        _stop(running[name])
                        running[name] = context.start(peers[name], upstream, work.rules)
                    gc.collect()
                    figures = uvloop.run(work.measure(context, upstream, running[name], pace))
                except (CannotRun, Failed, OSError, TimeoutError) as error:
                    measured.failures[name] = f"round {number + 1}: {str(error) or type(error).__name__}"
                    child = running[name].child
                    if child is not None and not child.is_running:
                        measured.failures[name] += f"; the process ended:\n{child.said()}"
                    continue
                measured.figures.setdefault(name, []).append(figures)
                kept = context.take_latencies()
                if kept is not None:
                    measured.latencies.setdefault(name, array("d")).extend(kept)
    measured.mood = mood.since()
    return measured


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
