"""`meshproxy check`: what is wrong with a mesh, and how to mend it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from meshproxy import __version__
from meshproxy.cli import _control_planes, _options, _precheck
from meshproxy.cli._local_page import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.control.finding import Finding
    from meshproxy.control.precheck import Note

WIDTH = 100


@click.command("check", short_help="Say what is wrong with the mesh, and how to mend it.")
@click.option("--pre", is_flag=True, help="Before an installation: what the cluster lacks.")
@_control_planes.options
@_precheck.options
@_options.output
@click.pass_context
def command(
    ctx: click.Context, /, pre: bool, addresses: tuple[str, ...], timeout: float, output: str, **plan: Any
) -> None:
    """Check a mesh by asking its control planes: whether they are there and agree, whether identities are issued and
    renewed, whether the documents are good, and whether all sidecars have them. Below what is wrong is what to do next.

    For the documents before they are in use, see `meshproxy config check`; for one sidecar, `meshproxy status` on its
    host.

    With --pre, before an installation, ask the API server of a cluster instead: whether it is new enough and serves
    what is needed, whether you may make it, whether kinds of ours, other meshes, namespaces and nodes are in the way.
    Nothing is written. What could not be found out is a warning.

    Exit status: 0 if all is well, 1 if there are warnings, 2 if there are errors.
    """
    from meshproxy.control.finding import worst

    _refuse(ctx, ("addresses", "timeout") if pre else _precheck.NAMES, pre)
    notes: list[Note] = []
    if pre:
        findings, notes = _precheck.precheck(**plan)
    else:
        from meshproxy.control.check import check

        findings = check(_control_planes.ask(addresses, timeout), __version__)
    if output == "json":
        _print_json(findings, notes)
    else:
        _print_text(findings, notes)
    sys.exit(worst(findings))


def _refuse(ctx: click.Context, names: Sequence[str], pre: bool) -> None:
    """Options that say nothing here. Raises UsageError."""
    for parameter in ctx.command.params:
        assert parameter.name is not None
        if parameter.name in names and ctx.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT:
            option = parameter.opts[0]
            if pre:
                raise click.UsageError(f"--pre asks the API server, not a control plane: leave {option} out")
            raise click.UsageError(f"{option} takes --pre: add --pre to ask a cluster, or leave {option} out")


def _print_text(findings: Sequence[Finding], notes: Sequence[Note]) -> None:
    from meshproxy.cli._status_text import counted
    from meshproxy.control.finding import worst

    section = ""
    for finding in findings:
        if finding.section != section:
            click.echo(("\n" if section else "") + _heading(finding.section))
            section = finding.section
        click.echo(f"{_control_planes.MARKS[finding.level]} {finding.check}")
        for text in (finding.problem, finding.hint and f"next: {finding.hint}"):
            if text:
                click.echo(click.wrap_text(printable(text), WIDTH, "    ", "    "))
    if notes:
        click.echo("\n" + _heading("not checked: nobody can tell from here"))
    for note in notes:
        click.echo(f"- {note.what}\n{click.wrap_text(note.text, WIDTH, '    ', '    ')}")
    wells, warnings, errors = (sum(finding.level == level for finding in findings) for level in range(3))
    mark = _control_planes.MARKS[worst(findings)]
    unchecked = f", {len(notes)} not checked" if notes else ""
    click.echo(f"\nresult: {mark}  {counted(errors, 'error')}, {counted(warnings, 'warning')}, {wells} well{unchecked}")


def _heading(text: str) -> str:
    return f"{text}\n{'-' * len(text)}"


def _print_json(findings: Sequence[Finding], notes: Sequence[Note]) -> None:
    from meshproxy.control.finding import worst

    page = {
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
    if notes:
        page["notChecked"] = [{"check": note.what, "text": note.text} for note in notes]
    _options.print_page("MeshCheck", page)
