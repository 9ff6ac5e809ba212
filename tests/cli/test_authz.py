"""`meshproxy authz check` is `meshproxy policy explain`."""

from __future__ import annotations

from click.testing import CliRunner

from meshproxy.cli import _policy_explain
from meshproxy.cli.authz import command
from meshproxy.cli.main import main


def test_it_is_the_same_command() -> None:
    assert command.commands["check"] is _policy_explain.explain
    found = CliRunner().invoke(main, ["authz", "check", "--help"])
    assert found.exit_code == 0
    assert "Usage: meshproxy authz check " in found.stdout.replace("main", "meshproxy")
