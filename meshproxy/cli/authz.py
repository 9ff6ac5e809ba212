"""`meshproxy authz`: `check` is another name of `meshproxy policy explain`, `list` asks the mesh."""

from __future__ import annotations

import click

from meshproxy.cli import _authz_list, _policy_explain


@click.group("authz")
def command() -> None:
    """Explain authorization decisions: check is meshproxy policy explain."""


command.add_command(_authz_list.command)
command.add_command(_policy_explain.explain, "check")
