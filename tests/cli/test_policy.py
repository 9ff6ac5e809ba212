"""The commands of `meshproxy policy`. Each has a test of its own file."""

from __future__ import annotations

from click.testing import CliRunner

from meshproxy.cli.main import main


def test_help_lists_the_commands() -> None:
    found = CliRunner().invoke(main, ["policy", "--help"])
    assert found.exit_code == 0
    assert "diff " in found.stdout
