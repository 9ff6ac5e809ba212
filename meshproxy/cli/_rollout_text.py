"""Rollouts as text: both versions side by side."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from meshproxy.cli._local_page import printable
from meshproxy.rollout.quantiles import quantile
from meshproxy.rollout.steps import Phase
from meshproxy.rollout.window import Blame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import RenderableType

    from meshproxy.control.rollouts import Shown
    from meshproxy.rollout.window import ArmWindow

COLOURS = {
    Phase.WAITING: "yellow",
    Phase.PROGRESSING: "cyan",
    Phase.PROMOTED: "green",
    Phase.ROLLED_BACK: "red",
}
BAR = 30
LAST_NOTICES = 5


def show(found: Sequence[Shown]) -> None:
    """Print them."""
    console = Console(highlight=False)
    console.print(_page(found))


@contextmanager
def watched() -> Iterator[Callable[[Sequence[Shown]], None]]:
    """What draws them again and again in one place."""
    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        yield lambda found: live.update(_page(found), refresh=True)


def _page(found: Sequence[Shown]) -> RenderableType:
    if not found:
        return Text("There are no rollouts: apply a ModelRollout.")
    return Group(*(_rollout(each) for each in found))


def _rollout(each: Shown) -> RenderableType:
    status = each.status
    colour = COLOURS[status.phase]
    arms = f"  {printable(each.model)}: {printable(each.stable)} -> {printable(each.candidate)}  "
    head = Text.assemble((printable(each.name), "bold"), arms, (status.phase.value, f"bold {colour}"))
    for is_so, word in ((each.paused, "paused"), (status.stalled, "stalled")):
        if is_so and status.is_active:
            head.append(f"  {word}", "bold yellow")
    if status.gate is not None and status.is_active:
        head.append(f"  waits for the webhooks of {status.gate.value}")
    filled = round(BAR * status.weight / 100)
    bar = Text.assemble(("█" * filled, colour), ("░" * (BAR - filled), "dim"), f" {status.weight:g} %")
    if status.phase is Phase.PROGRESSING:
        bar.append(f"  step {status.step + 1} of {len(each.weights)}, attempt {status.attempt}, {each.mode}")
    parts: list[RenderableType] = [head, bar, _arms(each)]
    if status.phase is Phase.PROGRESSING and not each.paused:
        parts += _nothing_counted(each)
    if status.verdict is not None:
        parts.append(Text(f"last window: {status.verdict.outcome.value}"))
        parts += [Text(f"  - {printable(reason)}") for reason in status.verdict.reasons]
    for notice in status.notices[-LAST_NOTICES:]:
        at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(notice.at))
        line = Text(f"{at}  {printable(notice.reason)}: {printable(notice.message)}")
        if notice.is_warning:
            line.stylize("red")
        parts.append(line)
    parts.append(Text(""))
    return Group(*parts)


def _nothing_counted(each: Shown) -> Iterator[Text]:
    """Why a version that is called has no calls, and when it may have some: sidecars count, and tell at the end of a
    window only."""
    arms = zip(("candidate", "stable version"), each.status.evidence.recent(), strict=True)
    names = " and the ".join(name for name, window in arms if not window.calls)
    if not names:
        return
    left = max(0.0, each.status.window_since + each.interval - time.time())
    yield Text(f"no calls of the {names} have counted yet; the next window ends in {left:.0f} s")
    warm_up = each.warm_up
    if warm_up.calls or warm_up.duration:
        yield Text(
            f"  warm-up: at each sidecar neither the first {warm_up.calls:,} calls of a version count, nor those of"
            f" {warm_up.duration:g} s from the first on"
        )


def _arms(each: Shown) -> Table:
    candidate, stable = each.status.evidence.recent()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "calls", "failed", "input", "p50", "p90", "p99", "NaN", "differ"):
        table.add_column(title, justify="left" if not title else "right")
    table.add_row("stable", *_cells(stable))
    table.add_row("candidate", *_cells(candidate))
    return table


def _cells(window: ArmWindow) -> list[str]:
    return [
        f"{window.calls:,}",
        _share(window.failed(Blame.ARM), window.calls),
        _share(window.failed(Blame.INPUT), window.calls),
        *(f"{1e3 * quantile(window.latency, share):.3g} ms" if window.latency else "-" for share in (0.5, 0.9, 0.99)),
        _share(window.nan_answers, window.answers),
        _share(window.disagreements, window.shadows),
    ]


def _share(events: int, calls: int) -> str:
    return f"{100 * events / calls:.2f} %" if calls else "-"
