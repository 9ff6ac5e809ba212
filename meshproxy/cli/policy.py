"""`meshproxy policy`: what the roles and bindings permit, what a change of them would do, and what nobody uses."""

from __future__ import annotations

import click

from meshproxy.cli import _policy_diff, _policy_explain, _policy_review, _policy_test


@click.group("policy")
def command() -> None:
    """Ask what a policy permits, and what a change of it would do."""


command.add_command(_policy_explain.explain)
command.add_command(_policy_test.test)
command.add_command(_policy_diff.diff)
command.add_command(_policy_review.unused)
command.add_command(_policy_review.matrix)


if __name__ == "__main__":
    command()
