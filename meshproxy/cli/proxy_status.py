"""`meshproxy proxy-status`: what every sidecar of a mesh has."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from meshproxy.cli import _control_planes, _options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.control.check import Answer
    from meshproxy.control.fleet import Member
    from meshproxy.control.status import ControlStatus


@click.command("proxy-status", short_help="Show what every sidecar of the mesh has.")
@_control_planes.options
@_options.output
def command(addresses: tuple[str, ...], timeout: float, output: str) -> None:
    """Show every sidecar of the mesh, those with problems first: its identity, the documents that it has, its
    certificate, its version, and where it is. Sidecars that were lost are shown until their certificate has expired.

    A control plane knows the sidecars that are connected to it. Where there are several, name each one. Their web port
    answers on loopback only; from elsewhere:

    \b
    kubectl -n meshproxy port-forward deploy/meshproxy-control 18512

    \b
    States: in-sync  it uses the documents in force that are in its scope
            behind   it was given them, and has not answered yet
            refused  it cannot use them, and goes on with the ones before
            gone     it was lost: it did not say that it stops

    Exit status: 0 if all is well, 1 if a sidecar is gone, long behind, due for renewal or of a version that is too far
    away, 2 if one has refused its documents or is about to lose its certificate, if the documents have problems, or if
    a control plane does not answer.
    """
    from meshproxy.control.fleet import Level, members

    answers = _control_planes.ask(addresses, timeout)
    found = members({answer.address: answer.status for answer in answers if answer.status is not None})
    if output == "json":
        _print_json(answers, found)
    else:
        from meshproxy.cli._proxy_status_text import show

        show(answers, found)
    is_wrong = any(answer.status is None or _problems(answer.status) for answer in answers)
    sys.exit(Level.ERROR if is_wrong else max((member.level for member in found), default=Level.WELL))


def _problems(status: ControlStatus) -> tuple[str, ...]:
    return status.documents.problems if status.documents is not None else ()


def _print_json(answers: Sequence[Answer], found: Sequence[Member]) -> None:
    import msgspec

    page = {
        "controlPlanes": [
            {
                "address": answer.address,
                "problem": answer.problem or None,
                "software": answer.status.software if answer.status is not None else None,
                "documents": answer.status.documents if answer.status is not None else None,
                "forgotten": answer.status.forgotten if answer.status is not None else 0,
            }
            for answer in answers
        ],
        "sidecars": [
            {
                "controlPlane": member.control,
                **msgspec.to_builtins(member.entry),
                "level": member.level.name.lower(),
                "troubles": [
                    {"check": trouble.concern.value, "level": trouble.level.name.lower(), "text": trouble.text}
                    for trouble in member.troubles
                ],
            }
            for member in found
        ],
    }
    _options.print_page("ProxyStatus", page)
