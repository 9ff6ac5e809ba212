"""How far a run is, on a terminal; nothing without a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.runner import Progress


@contextmanager
def progress(rounds: int) -> Iterator[Progress]:
    """A bar over the rounds of all works.

    Args:
        rounds: how many there are, over all works.
    """
    if not sys.stderr.isatty():
        yield lambda _work, _number, _rounds, _peer: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Drawn once a second: the bar's own thread shares the core with the load.
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=1, transient=True) as bar:
        task = bar.add_task("", total=rounds)
        seen: set[tuple[str, int]] = set()

        def show(work: str, number: int, of: int, peer: str) -> None:
            seen.add((work, number))
            bar.update(task, description=f"{work}: round {number + 1} of {of}: {peer}", completed=len(seen) - 1)

        yield show
