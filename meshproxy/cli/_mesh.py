"""Asks control planes for what sidecars have reported to them, and adds it up. What each tells is its own part of the
mesh: a sidecar reports to one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from meshproxy.cli import _control_planes, _live, _options
from meshproxy.cli._local_page import NoAnswer, get, printable, read_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from meshproxy.cli._call_rows import Window
    from meshproxy.view.page import MeshPage
    from meshproxy.view.tallies import Edge, Tally

FACTS: dict[str, Callable[[Edge], str]] = {
    "model": lambda edge: edge.model,
    "version": lambda edge: edge.version,
    "verb": lambda edge: edge.verb,
    "caller": lambda edge: _caller(edge),
    "server": lambda edge: edge.reporter or "-",
}
"""What calls of the mesh are grouped and filtered by."""

window = click.option(
    "-t",
    "--time-window",
    "window",
    default="1m",
    show_default=True,
    metavar="TIME",
    callback=_live.read_seconds,
    help="Of how long the numbers are: up to 1h.",
)

filters = _options.together(
    click.option("--model", multiple=True, metavar="GLOB", help="Calls of these models."),
    click.option(
        "--caller", multiple=True, metavar="GLOB", help="A SPIFFE ID, NAMESPACE/ACCOUNT or a token's subject."
    ),
    click.option("--server", multiple=True, metavar="GLOB", help="Calls that these sidecars took, by SPIFFE ID."),
)
"""What is shown; an option may be repeated, and one of its values has to match (`filtered`)."""

output = click.option(
    "-o", "--output", type=click.Choice(["table", "wide", "json"]), default="table", help="The format of the output."
)


class MeshAnswers(NamedTuple):
    """What the control planes say.

    Attributes:
        pages: by address.
        problems: why some of it may be missing, for people.
    """

    pages: dict[str, MeshPage]
    problems: list[str]

    @property
    def seconds(self) -> float:
        """How long the time is that they tell of: the longest."""
        return max((page.seconds for page in self.pages.values()), default=0.0)

    def tallies(self) -> dict[Edge, Tally]:
        """All calls, each once, by edge."""
        from meshproxy.view.graph import merge_views
        from meshproxy.view.tallies import Edge, new_tally

        found: dict[Edge, Tally] = {}
        for page in self.pages.values():
            for each in page.calls:
                found.setdefault(Edge.of(each.reporter, each.calls), new_tally()).add(each.calls)
        merged: dict[Edge, Tally] = {}
        for edge, tally in merge_views(found):
            merged.setdefault(edge, new_tally()).add(tally)
        return merged


def ask(addresses: Sequence[str], timeout: float, seconds: float) -> MeshAnswers:
    """What they say of the last seconds. Raises ClickException if none of them answers."""
    from meshproxy.view.page import read_mesh

    pages: dict[str, MeshPage] = {}
    problems: list[str] = []
    for address in dict.fromkeys(addresses):
        where = read_address(address, "--control", _control_planes.DEFAULT)
        name = "{}:{}".format(*where)
        try:
            page = read_mesh(ask_page(where, f"/mesh?seconds={seconds:g}", timeout))
        except NoAnswer as error:
            problems.append(f"no control plane answers at {name}: {error}")
            continue
        except ValueError as error:
            problems.append(f"{name} is not the web port of a control plane that takes reports: {error}")
            continue
        pages[name] = page
        problems += [f"{name}: {problem}" for problem in page.reports.problems()]
    if not pages:
        raise click.ClickException("; ".join([*problems, _control_planes.HINT]))
    return MeshAnswers(pages, problems)


def ask_page(where: tuple[str, int], path: str, timeout: float) -> bytes:
    """A page of a control plane. Raises NoAnswer, also if it is not there."""
    code, page = get(where, path, timeout)
    if code != 200:
        text = printable(" ".join(page[:200].decode("utf-8", "replace").split()))
        raise NoAnswer(f"{path} answers with status {code}: {text}")
    return page


def warn(answers: MeshAnswers) -> None:
    """Say what may be missing."""
    for problem in answers.problems:
        click.echo(f"‼ {printable(problem)}", err=True)


def window_of(
    addresses: Sequence[str],
    timeout: float,
    seconds: float,
    by: Sequence[str],
    filters: Mapping[str, Sequence[str]],
) -> Window:
    """The calls of the mesh in groups. Raises ClickException."""
    _check(by, filters)
    return grouped(ask(addresses, timeout, seconds), by, filters)


def grouped(answers: MeshAnswers, by: Iterable[str], filters: Mapping[str, Sequence[str]]) -> Window:
    """The calls in groups.

    Args:
        by: subjects of `FACTS`.
        filters: globs by subject: one of each has to match.
    """
    from meshproxy.cli._call_rows import Window
    from meshproxy.telemetry.call_stats import Group, Interval
    from meshproxy.telemetry.quantiles import BOUNDS

    groups = []
    for edge, tally in filtered(answers.tallies(), filters):
        groups.append(
            Group(
                {"direction": "inbound", **{name: FACTS[name](edge) for name in by}},
                calls=tally.calls,
                failed=tally.failed,
                denied=sum(tally.denied.values()),
                refused=sum(tally.denied.values()) + sum(tally.refused.values()),
                retries=tally.retries,
                # The middle of each bucket: at most 5 % away.
                seconds=sum(BOUNDS[min(index, len(BOUNDS) - 1)] / 1.05 * count for index, count in tally.total.items()),
                buckets=dict(tally.total),
            )
        )
    found = Window(1)
    found.add("mesh", Interval(answers.seconds, groups))
    return found


def filtered(tallies: Mapping[Edge, Tally], filters: Mapping[str, Sequence[str]]) -> Iterator[tuple[Edge, Tally]]:
    """Those that match one glob of each subject for which there are any."""
    from meshproxy.config.globs import compile_glob

    takes = {name: [compile_glob(glob) for glob in globs] for name, globs in filters.items() if globs}
    for edge, tally in tallies.items():
        if all(any(_matches(name, edge, glob) for glob in globs) for name, globs in takes.items()):
            yield edge, tally


def _matches(name: str, edge: Edge, glob: Callable[[str], Any]) -> bool:
    if name == "caller":
        from meshproxy.control.fleet import short_identity

        caller = edge.caller
        names = (caller.workload, short_identity(caller.workload), caller.token, caller.role, caller.address)
        return any(glob(each) for each in names if each) or (
            not (caller.workload or caller.token) and bool(glob("anonymous"))
        )
    return bool(glob(FACTS[name](edge)))


def _caller(edge: Edge) -> str:
    from meshproxy.view.graph import caller_name

    return caller_name(edge.caller)


def _check(by: Iterable[str], filters: Mapping[str, Sequence[str]]) -> None:
    """Raises UsageError for what sidecars do not report."""
    for name, globs in filters.items():
        if globs and name not in FACTS:
            raise click.UsageError(
                f"--{name}: sidecars do not report it. Leave --control out, and ask one sidecar (--admin)"
            )

    for name in by:
        if name not in FACTS:
            known = ", ".join(FACTS)
            raise click.UsageError(f"--by {name}: with --control, calls are told apart by {known}")


control = click.option(
    "--control",
    "addresses",
    multiple=True,
    metavar="HOST:PORT",
    help="The web port of a control plane, on this host or forwarded to it: show the calls of the whole mesh instead "
    "of one sidecar. Repeated for each one of the mesh.",
)
"""For commands that ask one sidecar otherwise."""


def show(
    addresses: tuple[str, ...],
    timeout: float,
    window: float,
    by: tuple[str, ...],
    filters: Mapping[str, tuple[str, ...]],
    output: str,
) -> None:
    """Calls of the mesh in groups, as `stat` shows those of a sidecar. Raises ClickException."""
    _check(by, filters)
    answers = ask(addresses, timeout, window)
    warn(answers)
    _live.show(grouped(answers, by, filters), by, output, f"no calls were reported in {answers.seconds:.3g} s")
