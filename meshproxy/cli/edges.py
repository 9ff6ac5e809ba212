"""`meshproxy edges`: who calls which model of the mesh, and whether it is secured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from meshproxy.cli import _control_planes, _mesh, _options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshproxy.view.tallies import Edge, Tally

REASONS = {
    "plaintext": "the connection is not encrypted",
    "tls": "the caller shows no certificate",
    "_other": "there are more callers than are told apart",
}
"""Why an edge is not secured."""


@click.command("edges", short_help="Show who calls which model of the mesh, and whether it is secured.")
@_mesh.window
@_mesh.filters
@_control_planes.options
@_mesh.output
def command(
    window: float,
    addresses: tuple[str, ...],
    timeout: float,
    output: str,
    **filters: tuple[str, ...],
) -> None:
    """Show each caller of each model in the last minute, as the sidecars of the mesh have reported it to the control
    plane, and whether both sides were authenticated.

    \b
    meshproxy edges
    meshproxy edges -t 1h --model 'fraud*' -o wide

    A control plane knows what the sidecars that are connected to it have reported. Where there are several, name each
    one; their calls are added up. Something that was not reported in time is said on standard error.

    Exit status: 0, or 1 if no control plane answers.
    """
    answers = _mesh.ask(addresses, timeout, window)
    _mesh.warn(answers)
    found = _edges(answers, filters)
    if output == "json":
        edges = [_document(key, sums, answers.seconds) for key, sums in found]
        _options.print_page("MeshEdges", {"seconds": answers.seconds, "edges": edges})
        return
    if not found:
        click.echo(f"no calls were reported in {answers.seconds:.3g} s", err=True)
        return
    _print(found, answers.seconds, wide=output == "wide")


Key = tuple[str, str, str, str]
"""Caller, server, model and security."""


class Sums:
    """Of one edge."""

    def __init__(self) -> None:
        from meshproxy.view.tallies import new_tally

        self.tally = new_tally()
        self.versions: set[str] = set()
        self.verbs: set[str] = set()

    def add(self, edge: Edge, tally: Tally) -> None:
        self.tally.add(tally)
        self.versions.add(edge.version)
        self.verbs.add(edge.verb)


def _edges(answers: _mesh.MeshAnswers, filters: Mapping[str, Sequence[str]]) -> list[tuple[Key, Sums]]:
    """The busiest first."""
    found: dict[Key, Sums] = {}
    for edge, tally in _mesh.filtered(answers.tallies(), filters):
        key = (_mesh.FACTS["caller"](edge), edge.reporter, edge.model, edge.security)
        found.setdefault(key, Sums()).add(edge, tally)
    return sorted(found.items(), key=lambda item: (-item[1].tally.calls, item[0]))


def _document(key: Key, sums: Sums, seconds: float) -> dict[str, object]:
    from meshproxy.telemetry.quantiles import quantile

    caller, server, model, security = key
    tally = sums.tally
    return {
        "clientId": caller,
        "serverId": server or None,
        "model": model,
        "versions": sorted(sums.versions),
        "verbs": sorted(sums.verbs),
        "secured": security == "mtls",
        "noTlsReason": REASONS.get(security),
        "calls": tally.calls,
        "callsPerSecond": round(tally.calls / seconds, 3) if seconds else 0.0,
        "failed": tally.failed,
        "denied": sum(tally.denied.values()),
        "codes": tally.codes,
        "allowedBy": tally.allowed,
        "deniedBy": tally.denied,
        "latencySeconds": {f"p{100 * share:g}": quantile(share, tally.total) for share in (0.5, 0.95, 0.99)},
    }


def _print(found: list[tuple[Key, Sums]], seconds: float, *, wide: bool) -> None:
    from meshproxy.cli._live_text import print_table, rate, share, short_caller, span
    from meshproxy.cli._status_text import new_table
    from meshproxy.telemetry.quantiles import quantile

    more = [">SUCCESS", ">P50", ">P99", ">DENIED", "VERSIONS", "VERBS"] if wide else []
    table = new_table("SRC", "DST", "MODEL", "SECURED", ">RPS", *more)
    for (caller, server, model, security), sums in found:
        tally = sums.tally
        row = [
            short_caller(caller),
            short_caller(server) if server else "-",
            model,
            "√" if security == "mtls" else f"no: {security}",
            rate(tally.calls / seconds if seconds else 0.0),
        ]
        if wide:
            denied = sum(tally.denied.values())
            judged = tally.calls - denied
            row += [
                share(1 - min(tally.failed / judged, 1.0) if judged else None).plain,
                span(quantile(0.5, tally.total)),
                span(quantile(0.99, tally.total)),
                f"{denied:,}",
                ",".join(sorted(sums.versions)),
                ",".join(sorted(sums.verbs)),
            ]
        table.add_row(*row)
    print_table(table, wide=wide)
