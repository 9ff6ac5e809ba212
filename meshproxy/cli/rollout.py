"""`meshproxy rollout`: shows rollouts, and gives orders to the control plane that leads them."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from meshproxy.cli import _control_planes, _options
from meshproxy.cli._local_page import NoAnswer, get, post, printable, read_address
from meshproxy.cli.main import FOUND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.control.rollouts import Shown


@click.group("rollout", short_help="Show and steer rollouts of model versions.")
def command() -> None:
    """Show rollouts and steer them. The web port of a control plane answers on loopback only; from elsewhere:

    \b
    kubectl -n meshproxy port-forward deploy/meshproxy-control 18512
    """


@command.command("status", short_help="Show where rollouts are, and both versions side by side.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_control_planes.options
@click.option("--watch", is_flag=True, help="Draw again every two seconds, until interrupted or all are over.")
@_options.output
def status(names: tuple[str, ...], addresses: tuple[str, ...], timeout: float, watch: bool, output: str) -> None:
    """Show rollouts: phase, weight, the last verdict and its reasons, and what both versions did in the last windows.

    Exit status: 0, 1 if no control plane answers or there is no such rollout, 3 if one was rolled back or is stalled.
    """
    found = _wanted(names, addresses, timeout)
    if output == "json":
        import msgspec

        _options.print_page("Rollouts", {"rollouts": msgspec.to_builtins(found, str_keys=True)})
    else:
        from meshproxy.cli._rollout_text import show, watched

        if watch:
            with watched() as draw:
                while True:
                    draw(found)
                    if found and not any(each.status.is_active for each in found):
                        break
                    time.sleep(2.0)
                    found = _wanted(names, addresses, timeout)
        else:
            show(found)
    is_bad = any(each.status.phase.value == "rolled-back" or each.status.stalled for each in found)
    sys.exit(FOUND if is_bad else 0)


def _order(word: str, short: str, text: str) -> None:
    @command.command(word, short_help=short, help=text)
    @click.argument("name")
    @_control_planes.options
    def order(name: str, addresses: tuple[str, ...], timeout: float) -> None:
        _send(name, word, addresses, timeout)


_order("pause", "Hold the weight.", "Hold the weight of a rollout. Nothing is judged but bursts of failures.")
_order("resume", "Go on after a pause.", "Go on after `pause`.")
_order("promote", "Give all calls to the candidate.", "Give all calls to the candidate now, whatever is left to judge.")
_order(
    "abort", "Give all calls to the stable version.", "Give all calls to the stable version now, and end the rollout."
)
_order("retry", "Begin anew.", "Begin a rollout anew that is over: with the first step, and without its evidence.")


def _wanted(names: Sequence[str], addresses: Sequence[str], timeout: float) -> list[Shown]:
    """Of the control planes that answer, each rollout once. Ends the command if there is nothing to show."""
    import msgspec

    from meshproxy.control.rollouts import Shown

    found: dict[str, Shown] = {}
    problems = []
    for address in dict.fromkeys(addresses):
        where = read_address(address, "--control", _control_planes.DEFAULT)
        try:
            code, page = get(where, "/rollouts", timeout)
            if code != 200:
                problems.append(f"{address} answers {code}: {printable(page[:200].decode('utf-8', 'replace').strip())}")
                continue
            for each in msgspec.json.decode(page, type=list[Shown]):
                if each.name not in found or each.sidecars > found[each.name].sidecars:
                    found[each.name] = each
        except NoAnswer as error:
            problems.append(f"nothing answers at {address}: {error}; {_control_planes.HINT}")
        except msgspec.MsgspecError as error:
            problems.append(f"{address} is not the web port of a control plane with rollouts: {error}")
    for problem in problems:
        click.echo(problem, err=True)
    missing = [name for name in names if name not in found]
    if missing:
        known = ", ".join(sorted(found)) or "none"
        click.echo(f"no rollout {', '.join(map(printable, missing))}; there are: {known}", err=True)
    if missing or (problems and not found):
        sys.exit(1)
    return [found[name] for name in sorted(found) if not names or name in names]


def _send(name: str, word: str, addresses: Sequence[str], timeout: float) -> None:
    """To one control plane after the other, until the one that leads takes it."""
    from urllib.parse import quote

    problems = []
    for address in dict.fromkeys(addresses):
        where = read_address(address, "--control", _control_planes.DEFAULT)
        try:
            code, page = post(
                where, f"/rollouts/{quote(name, safe='')}/{word}", _control_planes.order_headers(), timeout
            )
        except NoAnswer as error:
            problems.append(f"nothing answers at {address}: {error}; {_control_planes.HINT}")
            continue
        text = printable(page[:500].decode("utf-8", "replace").strip())
        if code == 200:
            click.echo(text)
            return
        problems.append(f"{address}: {text}")
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(1)
