"""The text of `meshproxy proxy-status`: a line on each control plane, a table, and what is wrong below it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from meshproxy.cli._control_planes import MARKS
from meshproxy.cli._local_page import printable
from meshproxy.cli._status_text import new_table, print_table
from meshproxy.control.fleet import Level, short_identity
from meshproxy.control.status import SidecarState
from meshproxy.telemetry.timestamps import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from meshproxy.control.check import Answer
    from meshproxy.control.fleet import Member

VERSION = 8
"""Characters of a version of documents."""
WIDTH = 120
"""Where there is no terminal, which knows its own."""


def show(answers: Sequence[Answer], members: Sequence[Member]) -> None:
    """Print it."""
    several = len(answers) > 1
    for answer in answers:
        click.echo(_control(answer))
    if members:
        print_table(_table(members, several), WIDTH)
    troubled = [member for member in members if member.level]
    if troubled:
        click.echo()
    for member in troubled:
        for trouble in member.troubles:
            click.echo(f"{MARKS[trouble.level]} {printable(f'{member.name}: {trouble.text}')}")
    if not several and any(member.entry.state is SidecarState.GONE for member in members):
        click.echo("\nA sidecar that is gone may be connected to another control plane: name each one (--control).")


def _control(answer: Answer) -> str:
    """A control plane in one line."""
    status = answer.status
    if status is None:
        return f"{MARKS[Level.ERROR]} control plane {answer.address}: {printable(answer.problem)}"
    up = duration((status.now - status.started_at).total_seconds())
    text = f"control plane {answer.address}: meshproxy {status.software}, up {up}"
    if status.documents is None:
        return f"{text}, gives no documents and knows no sidecars (--documents)"
    states = Counter(entry.state for entry in status.sidecars)
    counts = ", ".join(f"{states[state]} {state.value}" for state in SidecarState if states[state])
    text += f", documents {status.documents.version[:VERSION]}; {counts or 'no sidecars'}"
    if status.forgotten:
        text += f", and {status.forgotten} gone that are not listed"
    if status.documents.problems:
        problem = printable(status.documents.problems[0])
        text += f"\n{MARKS[Level.ERROR]} its documents have problems and are not given: {problem}"
    return text


def _table(members: Sequence[Member], several: bool) -> Table:
    headings = ["SIDECAR", "IDENTITY", "STATE", "FOR", "DOCUMENTS", "CERTIFICATE", "SOFTWARE", "PEER"]
    table = new_table(*headings, *(["CONTROL"] if several else []))
    for member in members:
        entry = member.entry
        left = (entry.certificate_expires - member.now).total_seconds()
        state = entry.state.value
        row = [
            entry.sidecar or "-",
            short_identity(entry.spiffe_id),
            state if entry.state is SidecarState.IN_SYNC else state.upper(),
            duration((member.now - entry.since).total_seconds()),
            entry.version[:VERSION] or "none",
            duration(left) if left > 0 else "EXPIRED",
            entry.software or "-",
            f"{entry.host} {entry.peer}".strip(),
        ]
        table.add_row(*row, *([member.control] if several else []))
    return table
