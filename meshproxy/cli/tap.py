"""`meshproxy tap`: the calls of one running sidecar, as they end."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from meshproxy.cli import _live, _mesh_taps
from meshproxy.cli._local_page import printable
from meshproxy.cli.main import INTERRUPTED

if TYPE_CHECKING:
    from meshproxy.cli._live import Lines


@click.command("tap", short_help="Show the calls of a running sidecar, or of the mesh, as they end.")
@_live.options
@_mesh_taps.options
@click.option(
    "--max-rps", default=100, show_default=True, type=click.IntRange(1, 1_000), help="Calls a second at most."
)
@click.option("--hide-callers", is_flag=True, help="Without callers and addresses.")
@click.option("-n", "--count", type=click.IntRange(1), help="End after so many calls.")
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait for the sidecar.")
@_live.output
def command(
    address: str,
    addresses: tuple[str, ...],
    sidecars: tuple[str, ...],
    window: float,
    max_rps: int,
    hide_callers: bool,
    count: int | None,
    timeout: float,
    output: str | None,
    **filters: tuple[str, ...],
) -> None:
    """Show the calls of a running sidecar as they end, one line for each: as the access log has them, also where that
    is off. It never shows tokens, queries or bodies.

    \b
    meshproxy tap --model 'resnet*' --outcome failed
    meshproxy tap --caller 'pricing/*' --slower 250ms -o wide
    kubectl exec POD -c meshproxy -- meshproxy tap --code 5xx -n 20
    meshproxy tap --control 127.0.0.1:18512 --sidecar 'serving/*' --outcome denied

    With --control, show those of the sidecars of the mesh: each that a --sidecar matches, 50 of a control plane at
    most, and 200 calls a second. A call that goes through two sidecars is shown by both: --direction inbound.

    The sidecar never waits for a tap: calls above --max-rps, and those that are not read in time, are left out and
    counted; the counts are printed at the end. With several workers --max-rps holds for each.

    Filters may be repeated: one value of each has to match.

    Exit status: 0 after --count calls, or --time-window with --control, 1 if no sidecar or control plane answers or it
    has ended, 130 after Ctrl-C.
    """
    fields = [*_live.filter_fields(filters), ("rate", str(max_rps))]
    if hide_callers:
        fields.append(("identities", "hidden"))
    shown = _Shown(_live.chosen(output), is_mesh=bool(addresses))
    if addresses:
        opened = _mesh_taps.opened(addresses, sidecars, window, fields, timeout)
    elif sidecars:
        raise click.UsageError("--sidecar takes --control")
    else:
        opened = _live.opened(address, "/tap", fields, timeout)
    with opened as lines:
        try:
            shown.run(lines, count)
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                click.echo(err=True)  # after ^C
            sys.exit(INTERRUPTED)
        finally:
            shown.summary()


class _Shown:
    """What a tap has printed, and what it was told that it missed."""

    def __init__(self, output: str, *, is_mesh: bool) -> None:
        self._calls = 0
        self._is_mesh = is_mesh
        self._sidecars: dict[str, dict[str, int]] = {}
        """What control planes say of how many they asked."""
        self._problems: set[str] = set()
        self._missed: dict[str, tuple[int, int]] = {}
        """By source: calls above the rate, and calls that were not read in time."""
        self._console: Any = None
        if output != "json":
            from rich.console import Console

            from meshproxy.cli._live_text import TapLines

            self._console = Console(highlight=False)
            self._lines = TapLines(self._console.width, wide=output == "wide", is_mesh=is_mesh)

    def run(self, lines: Lines, count: int | None) -> None:
        """Print calls until there are so many. Raises Ended."""
        if self._console is not None:
            self._print(self._lines.heading())
        while count is None or self._calls < count:
            where, line = lines.next() or ("", {})
            if line is None:
                if self._is_mesh and where in self._sidecars:
                    if lines.sources:
                        continue
                    return  # its time is over
                if not lines.sources:
                    raise _live.ended(where)
                click.echo(f"{where} sends no more; the other workers do", err=True)
            elif (told := line.get("tap")) is not None:
                self._missed[where] = told["overRate"], told["unread"]
                self._tell(where, told)
            else:
                self._show(line)

    def _tell(self, where: str, told: dict[str, Any]) -> None:
        """What a control plane says of the sidecars."""
        if "sidecars" not in told:
            return
        self._sidecars[where] = told["sidecars"]
        for problem in told["problems"]:
            if problem not in self._problems:
                self._problems.add(problem)
                click.echo(f"‼ {printable(str(problem))}", err=True)

    def _show(self, line: dict[str, Any]) -> None:
        self._calls += 1
        if self._console is None:
            click.echo(json.dumps(line))
            return
        try:
            text = self._lines.line(line)
        except (TypeError, ValueError, AttributeError, ArithmeticError):
            # A sidecar of the mesh may say anything; the calls of the others are shown all the same.
            whose = printable(str(line.get("sidecar") or "a sidecar"))
            click.echo(f"‼ a line of {whose} cannot be shown: it is of another version (-o json shows it)", err=True)
        else:
            self._print(text)

    def _print(self, text: Any) -> None:
        self._console.print(text, soft_wrap=True)

    def summary(self) -> None:
        """How many were shown, and how many were not."""
        over_rate = sum(missed[0] for missed in self._missed.values())
        unread = sum(missed[1] for missed in self._missed.values())
        text = f"{self._calls:,} call{'s' * (self._calls != 1)} shown"
        if over_rate:
            text += f", {over_rate:,} left out as they were more than --max-rps"
        if unread:
            text += f", {unread:,} left out as they were not read in time"
        if self._sidecars:
            matched, asked, answered = (
                sum(each[name] for each in self._sidecars.values()) for name in ("matched", "asked", "answered")
            )
            text += f"; {answered} of {asked} sidecars showed calls"
            if matched > asked:
                text += f", and {matched - asked} more that match were not asked: name fewer with --sidecar"
        click.echo(text, err=True)
