"""`meshproxy top`: `meshproxy stat`, again and again."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from meshproxy.cli import _live, _mesh
from meshproxy.cli.main import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.console import Console, ConsoleDimensions

    from meshproxy.cli._call_rows import Window
    from meshproxy.cli._live import Lines

SORTS = ("rps", "p99", "success", "failed", "denied")
REFRESH_SECONDS = 1.0


@click.command("top", short_help="Show the busiest models of a running sidecar, live.")
@_live.by
@_live.time_window("Of how long the numbers are.")
@click.option("--sort", type=click.Choice(SORTS), default="rps", show_default=True, help="What comes first.")
@_live.options
@_mesh.control
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait for an answer.")
@_live.output
def command(
    by: tuple[str, ...],
    window: float,
    sort: str,
    address: str,
    addresses: tuple[str, ...],
    timeout: float,
    output: str | None,
    **filters: tuple[str, ...],
) -> None:
    """Show what `meshproxy stat` shows of the last seconds, refreshed every second.

    With --control, of all sidecars of the mesh, as far as they have reported: every few seconds.

    \b
    meshproxy top --by caller --sort denied
    meshproxy top --control 127.0.0.1:18512
    kubectl exec -it POD -c meshproxy -- meshproxy top

    On a terminal: s sorts by the next column, q ends it. Elsewhere, and with -o json: one line every second.

    Filters may be repeated: one value of each has to match.

    Exit status: 0 after q, 1 if no sidecar answers or it has ended, 130 after Ctrl-C.
    """
    from meshproxy.cli._call_rows import Window

    if addresses:
        _top_mesh(addresses, timeout, window, by, filters, sort, output)
        return
    seen = Window(max(1, round(window / REFRESH_SECONDS)))
    fields = [("by", name) for name in by] + _live.filter_fields(filters)
    chosen = _live.chosen(output)
    try:
        with _live.opened(address, "/stat", fields, timeout) as lines:
            if chosen == "json":
                _print_lines(lines, seen)
            else:
                collect = partial(_collect, lines, seen)
                _show(collect, lambda: seen, by, sort, wide=chosen == "wide")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _top_mesh(
    addresses: tuple[str, ...],
    timeout: float,
    window: float,
    by: tuple[str, ...],
    filters: Mapping[str, tuple[str, ...]],
    sort: str,
    output: str | None,
) -> None:
    """Ask again and again. Ends as `command` does."""
    chosen = _live.chosen(output)

    def look() -> Window:
        return _mesh.window_of(addresses, timeout, window, by, filters)

    try:
        if chosen == "json":
            while True:
                seen = look()
                click.echo(json.dumps(_live.document(seen, seen.rows())))
                time.sleep(REFRESH_SECONDS)
        _show(time.sleep, look, by, sort, wide=chosen == "wide")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _print_lines(lines: Lines, seen: Window) -> None:
    while True:
        _live.collect(lines, seen, time.monotonic() + REFRESH_SECONDS)
        if seen.seconds:
            click.echo(json.dumps(_live.document(seen, seen.rows())))


def _collect(lines: Lines, seen: Window, seconds: float) -> None:
    _live.collect(lines, seen, time.monotonic() + seconds)


def _show(
    pause: Callable[[float], None], look: Callable[[], Window], by: tuple[str, ...], sort: str, *, wide: bool
) -> None:
    """Until q is pressed.

    Args:
        pause: lets so many seconds pass, and takes what comes meanwhile.
        look: what there is to be shown now.
    """
    from rich.console import Console

    from meshproxy.cli._keys import Keys

    console = Console(highlight=False)
    with Keys() as keys, _place(console) as show:
        while True:
            show(_screen(look(), by, sort, wide=wide, size=console.size))
            until = time.monotonic() + REFRESH_SECONDS
            while (left := until - time.monotonic()) > 0:
                pause(min(left, 0.1))
                key = keys.pressed()
                if key == "q":
                    return
                if key == "s":
                    sort = SORTS[(SORTS.index(sort) + 1) % len(SORTS)]
                    break


@contextmanager
def _place(console: Console) -> Iterator[Callable[[Any], None]]:
    """Where screens are shown: each in the place of the one before, or below it where that is not possible."""
    from rich.live import Live

    if console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            yield lambda screen: live.update(screen, refresh=True)
    else:
        yield console.print


def _screen(seen: Window, by: tuple[str, ...], sort: str, *, wide: bool, size: ConsoleDimensions) -> Any:
    """One line on everything, and the rows and columns that there is room for."""
    from rich.console import Group
    from rich.text import Text

    from meshproxy.cli import _call_rows
    from meshproxy.cli._live_text import fitting_table, rate

    rows = _call_rows.sort(seen.rows(), sort)
    room = max(1, size.height - 5)
    total = sum(row.rate for row in rows)
    what = f"{rate(total)} calls/s in the last {seen.seconds:.3g} s" if seen.seconds else "waiting for the first second"
    head = Text(f"{what}, sorted by {sort} (s: next, q: end)", no_wrap=True, overflow="ellipsis")
    parts: list[Any] = [head, Text(), fitting_table(rows[:room], by, wide=wide, width=size.width)]
    if len(rows) > room:
        parts.append(Text(f"... and {len(rows) - room} more"))
    return Group(*parts)
