"""`meshproxy findings`: what nobody uses, who is not authenticated, which models have changed, and which certificates
are about to expire."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
import msgspec

from meshproxy.cli import _control_planes, _mesh, _options
from meshproxy.cli._local_page import NoAnswer, printable, read_address
from meshproxy.cli.main import FOUND

if TYPE_CHECKING:
    from meshproxy.view.findings import Findings


@click.command("findings", short_help="Show what nobody uses, and who is not authenticated.")
@_control_planes.options
@_options.output
def command(addresses: tuple[str, ...], timeout: float, output: str) -> None:
    """Compare the documents of the mesh with the calls of the last hour: models that nobody calls, permissions that
    nobody uses, callers that show no certificate, models that have changed although nobody has rolled out anything, and
    certificates that are not renewed in time.

    What is used once a day is not seen in an hour: look again before you remove something. Where there are several
    control planes, name each one: something is unused if all of them have seen no use.

    Who would be cut off by another policy: `meshproxy policy diff`.

    Exit status: 0 if nothing was found, 1 if a control plane does not answer, 3 if something was found.
    """
    found = [_ask(address, timeout) for address in dict.fromkeys(addresses)]
    certificates = _certificates(addresses, timeout)
    result = _merge(found)
    if output == "json":
        page = msgspec.to_builtins(result)
        _options.print_page(page.pop("kind"), {**page, "certificates": certificates})
    else:
        _print(result, certificates)
    if result.unused_models or result.unused_bindings or result.open_callers or result.changed_models or certificates:
        sys.exit(FOUND)


def _ask(address: str, timeout: float) -> Findings:
    """Raises ClickException."""
    from meshproxy.view.findings import Findings

    where = read_address(address, "--control", _control_planes.DEFAULT)
    try:
        return msgspec.json.decode(_mesh.ask_page(where, "/findings", timeout), type=Findings)
    except (NoAnswer, msgspec.DecodeError) as error:
        raise click.ClickException(_control_planes.no_answer("{}:{}".format(*where), error)) from None


def _merge(found: list[Findings]) -> Findings:
    """Unused is what all of them say is unused; callers are those of all."""
    first, *others = found
    models = set(first.unused_models).intersection(*(each.unused_models for each in others))
    names = {each.binding for each in first.unused_bindings}
    names.intersection_update(*({binding.binding for binding in each.unused_bindings} for each in others))
    changed = {
        (each.model, each.version, each.direction, each.signal): each for one in found for each in one.changed_models
    }
    opened = {(each.caller, each.security): each for one in found for each in one.open_callers}
    return msgspec.structs.replace(
        first,
        seconds=min(each.seconds for each in found),
        is_complete=all(each.is_complete for each in found),
        unused_models=sorted(models),
        unused_bindings=[each for each in first.unused_bindings if each.binding in names],
        open_callers=sorted(opened.values(), key=lambda each: -each.calls),
        changed_models=tuple(each for _, each in sorted(changed.items())),
    )


def _certificates(addresses: tuple[str, ...], timeout: float) -> list[str]:
    """Certificates of sidecars that are not renewed in time, and of control planes and authorities."""
    from meshproxy.control.fleet import Concern, members, renewal

    answers = _control_planes.ask(addresses, timeout)
    statuses = {answer.address: answer.status for answer in answers if answer.status is not None}
    found = [
        f"{member.name}: {trouble.text}"
        for member in members(statuses)
        for trouble in member.troubles
        if trouble.concern is Concern.CERTIFICATE
    ]
    for address, status in statuses.items():
        level, text = renewal(status.certificate_issued, status.certificate_expires, status.now)
        if level:
            found.append(f"control plane {address}: its certificate {text}")
    return found


def _print(result: Findings, certificates: list[str]) -> None:
    from meshproxy.cli._live_text import short_caller
    from meshproxy.telemetry.timestamps import duration

    if not result.is_complete:
        click.echo("‼ not everything was reported: what seems unused may be used", err=True)
    _section("models that nobody calls", [printable(name) for name in result.unused_models])
    _section(
        "permissions that nobody uses",
        [
            f"{printable(each.binding)} (role {printable(each.role)}: {printable(', '.join(each.models))})"
            for each in result.unused_bindings
        ],
    )
    _section(
        "callers without mTLS",
        [
            f"{printable(short_caller(each.caller))}, {each.security}, {each.calls:,} calls"
            + (f" of {printable(', '.join(each.models))}" if each.models else "")
            for each in result.open_callers
        ],
    )
    _section(
        "models that have changed",
        [f"{printable(each.model)}, {printable(each.words)} (since {each.since})" for each in result.changed_models],
    )
    _section("certificates that are not renewed in time", [printable(each) for each in certificates])
    click.echo(f"in the last {duration(result.seconds)}")


def _section(heading: str, lines: list[str]) -> None:
    click.echo(f"{heading}: {len(lines) if lines else 'none'}")
    for line in lines:
        click.echo(f"  {line}")
    click.echo()
