"""`python -m benchmarks`: see README.md, or `--help`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from benchmarks.context import Context
from benchmarks.machine import describe
from benchmarks.peers.catalogue import peers as all_peers
from benchmarks.processes import REPOSITORY, CannotRun
from benchmarks.report import table
from benchmarks.runner import Measured, run_work
from benchmarks.works.catalogue import catalogue, chosen
from benchmarks.works.work import Pace


@click.command()
@click.option(
    "--only", multiple=True, metavar="WORK", help="Only works of this name; patterns (cpu-*) and commas may be used."
)
@click.option("--peers", "peer_names", multiple=True, metavar="PEER", help="Only these peers.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100), help="Turns of every peer.")
@click.option("--duration", default=5.0, show_default=True, help="Seconds of one measurement.")
@click.option("--warm-up", default=1.0, show_default=True, help="Seconds before it that do not count.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder of the result files.  [default: benchmarks/results]"
)
@click.option("--save/--no-save", default=False, help="Write JSON, table and plots.")
@click.option("--list", "is_list", is_flag=True, help="Say which works there are, and stop.")
def main(
    only: tuple[str, ...],
    peer_names: tuple[str, ...],
    rounds: int,
    duration: float,
    warm_up: float,
    output: Path | None,
    save: bool,
    is_list: bool,
) -> None:
    """What a hop through meshproxy costs, beside what one would take instead."""
    if is_list:
        for work in catalogue():
            click.echo(f"{work.name:20} {work.question} ({', '.join(work.peers)})")
        return
    try:
        works = chosen(_split(only))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    peers = all_peers()
    wanted = _split(peer_names)
    for name in wanted:
        if name not in peers:
            raise click.UsageError(f"no peer is called {name!r}; there are: {', '.join(peers)}")
    if wanted:
        peers = {name: peer for name, peer in peers.items() if name in wanted}
    for name, peer in list(peers.items()):
        missing = peer.missing()
        if missing is not None:
            click.echo(f"{name} is left out: it needs {missing}", err=True)
            del peers[name]
    results: list[Measured] = []
    try:
        with Context() as context:
            for work in works:
                measured = run_work(context, work, peers, rounds, Pace(duration, warm_up), _say)
                results.append(measured)
                _say_nothing()
                click.echo(table(measured) + "\n")
    except CannotRun as error:
        raise click.ClickException(str(error)) from error
    if save:
        folder = output or REPOSITORY / "benchmarks" / "results"
        click.echo(f"{describe()} {folder}")
    if any(measured.failures for measured in results):
        sys.exit(1)


def _split(values: tuple[str, ...]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _say(work: str, number: int, rounds: int, peer: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{work}: round {number + 1} of {rounds}: {peer}", nl=False, err=True)


def _say_nothing() -> None:
    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
