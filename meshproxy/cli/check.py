"""`meshproxy check`: what is wrong with a mesh, and how to mend it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from meshproxy import __version__
from meshproxy.cli import _control_planes, _options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.control.check import Finding

WIDTH = 100


@click.command("check", short_help="Say what is wrong with the mesh, and how to mend it.")
@_control_planes.options
@_options.output
def command(addresses: tuple[str, ...], timeout: float, output: str) -> None:
    """Check a mesh by asking its control planes: whether they are there and agree, whether identities are issued and
    renewed, whether the documents are good, and whether all sidecars have them. Below what is wrong is what to do next.

    For the documents before they are in use, see `meshproxy config check`; for one sidecar, `meshproxy status` on its
    host.

    Exit status: 0 if all is well, 1 if there are warnings, 2 if there are errors.
    """
    from meshproxy.control.check import check, worst

    findings = check(_control_planes.ask(addresses, timeout), __version__)
    if output == "json":
        _print_json(findings)
    else:
        _print_text(findings)
    sys.exit(worst(findings))


def _print_text(findings: Sequence[Finding]) -> None:
    from meshproxy.cli._status_text import counted
    from meshproxy.control.check import worst

    section = ""
    for finding in findings:
        if finding.section != section:
            click.echo(("\n" if section else "") + f"{finding.section}\n{'-' * len(finding.section)}")
            section = finding.section
        click.echo(f"{_control_planes.MARKS[finding.level]} {finding.check}")
        for text in (finding.problem, finding.hint and f"next: {finding.hint}"):
            if text:
                click.echo(click.wrap_text(text, WIDTH, "    ", "    "))
    wells, warnings, errors = (sum(finding.level == level for finding in findings) for level in range(3))
    mark = _control_planes.MARKS[worst(findings)]
    click.echo(f"\nresult: {mark}  {counted(errors, 'error')}, {counted(warnings, 'warning')}, {wells} well")


def _print_json(findings: Sequence[Finding]) -> None:
    import msgspec

    from meshproxy.control.check import worst
    from meshproxy.control.status import API_VERSION

    page = {
        "apiVersion": API_VERSION,
        "kind": "MeshCheck",
        "result": worst(findings).name.lower(),
        "checks": [
            {
                "section": finding.section,
                "check": finding.check,
                "level": finding.level.name.lower(),
                "problem": finding.problem or None,
                "hint": finding.hint or None,
            }
            for finding in findings
        ],
    }
    click.echo(msgspec.json.format(msgspec.json.encode(page), indent=2).decode())
