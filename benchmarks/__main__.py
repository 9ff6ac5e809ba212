"""`python -m benchmarks`: see README.md, or `--help`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.behind import behind
from benchmarks.context import Context
from benchmarks.machine import describe
from benchmarks.peers.catalogue import peers as all_peers
from benchmarks.processes import REPOSITORY, CannotRun
from benchmarks.profiling import Profiler
from benchmarks.progress import progress
from benchmarks.report import table
from benchmarks.results import heading, save
from benchmarks.runner import Runner
from benchmarks.targets import needed_peers, needed_works, verdicts
from benchmarks.works.catalogue import catalogue, chosen
from benchmarks.works.work import Pace

if TYPE_CHECKING:
    from benchmarks.peers.peer import Peer
    from benchmarks.runner import Measured


@click.command()
@click.option("--only", multiple=True, metavar="WORK", help="Only these works: names, patterns (cpu-*), with commas.")
@click.option("--targets", "is_for_targets", is_flag=True, help="Only the works and peers that the targets need.")
@click.option("--peers", "peer_names", multiple=True, metavar="PEER", help="Only these peers.")
@click.option("--rounds", type=click.IntRange(1, 100), help="Rounds of every peer.  [default: 5; 3 with --quick]")
@click.option("--duration", type=float, help="Seconds of one measurement.  [default: 5; 2 with --quick]")
@click.option("--warm-up", type=float, help="Warm-up seconds before each measurement.  [default: 1; 0.5 with --quick]")
@click.option("--quick", is_flag=True, help="Few and short rounds, for a first impression.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Write JSON, tables and pictures into this folder.  [default, if everything is run: benchmarks/results]",
)
@click.option(
    "--vary/--identical",
    "varies",
    default=True,
    show_default=True,
    help="Whether requests differ from one another, in length, x-request-id and traceparent, as those of clients do.",
)
@click.option(
    "--neighbour",
    "has_neighbour",
    is_flag=True,
    help="Keep the proxy's core busy with something else, too, as on a node that is full.",
)
@click.option("--profile", type=click.Path(path_type=Path), help="Let py-spy record meshproxy: .svg or .json.")
@click.option("--list", "is_list", is_flag=True, help="List the works and exit.")
def main(
    only: tuple[str, ...],
    is_for_targets: bool,
    peer_names: tuple[str, ...],
    rounds: int | None,
    duration: float | None,
    warm_up: float | None,
    quick: bool,
    output: Path | None,
    varies: bool,
    has_neighbour: bool,
    profile: Path | None,
    is_list: bool,
) -> None:
    """What a hop through meshproxy costs, beside what one would take instead."""
    if is_list:
        for work in catalogue():
            click.echo(f"{work.name:18} {work.question} ({', '.join(work.peers)})")
        return
    rounds = rounds or (3 if quick else 5)
    duration = duration or (2.0 if quick else 5.0)
    warm_up = warm_up or (0.5 if quick else 1.0)
    wanted, wanted_peers = _split(only), _split(peer_names)
    if is_for_targets:
        wanted += needed_works()
        wanted_peers = wanted_peers or needed_peers()
    try:
        works = chosen(wanted)
        peers = _peers(wanted_peers)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if output is None and not wanted and not wanted_peers and not quick:
        output = REPOSITORY / "benchmarks" / "results"
    machine = describe()
    settings = {
        "rounds": rounds,
        "duration": duration,
        "warm_up": warm_up,
        "varies": varies,
        "neighbour": has_neighbour,
    }
    click.echo(heading(machine, settings) + "\n")
    # Ended from outside, a run still takes its processes and files with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results: list[Measured] = []
    try:
        with (
            Context(varies=varies, has_neighbour=has_neighbour) as context,
            progress(sum(min(rounds, work.at_most_rounds or rounds) for work in works)) as show,
        ):
            profiler = Profiler(profile) if profile else None
            runner = Runner(context, peers, rounds, Pace(duration, warm_up), show, profiler)
            for work in works:
                measured = runner.run(work)
                results.append(measured)
                click.echo(table(measured) + "\n")
                # After every work, so that a long run that is interrupted is not lost.
                if output is not None:
                    save(output, machine, settings, peers, results)
    except CannotRun as error:
        raise click.ClickException(str(error)) from error
    for said in filter(None, (verdicts(results), behind(results))):
        click.echo(said + "\n")
    if output is not None:
        click.echo(f"written: {output}")
    if any(measured.failures for measured in results):
        sys.exit(1)


def _peers(wanted: list[str]) -> dict[str, Peer]:
    """The peers that are asked for and can run here; says which cannot.

    Raises:
        ValueError: there is no peer of that name.
    """
    known = all_peers()
    for name in wanted:
        if name not in known:
            raise ValueError(f"unknown peer {name!r}; choose from: {', '.join(known)}")
    usable = {}
    for name, peer in known.items():
        missing = peer.missing()
        if wanted and name not in wanted:
            continue
        if missing is not None:
            click.echo(f"{name} is left out: it needs {missing}", err=True)
        else:
            usable[name] = peer
    return usable


def _split(values: tuple[str, ...]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
