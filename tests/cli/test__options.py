"""Options that several commands have, and what they print."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from meshproxy.cli import _options
from meshproxy.config import values


@click.command()
@_options.output
@_options.log_level("What for.")
def command(output: str, log_level: str) -> None:
    click.echo(f"{output} {log_level}")


def run(*arguments: str, **environment: str) -> str:
    return CliRunner().invoke(command, arguments, env=environment).output


def test_defaults_and_choices() -> None:
    assert run() == "text info\n"
    assert run("-o", "json", "--log-level", "debug") == "json debug\n"
    assert run("--output", "text", MESHPROXY_LOG_LEVEL="error") == "text error\n"


@pytest.mark.parametrize("arguments", [("-o", "yaml"), ("--log-level", "loud")])
def test_what_is_none_of_them(arguments: tuple[str, str]) -> None:
    assert "is not one of" in run(*arguments)


def test_what_a_reader_refuses_is_a_usage_error_that_names_the_option() -> None:
    assert _options.read(values.read_lifetime, "1m", "--lifetime") == 60.0
    with pytest.raises(click.UsageError, match=r"^--lifetime: expected a duration"):
        _options.read(values.read_lifetime, "soon", "--lifetime")


def test_several_are_shown_in_their_order() -> None:
    both = _options.together(
        click.option("--first"), _options.together(click.option("--second"), click.option("--third"))
    )
    command = click.command()(both(lambda **given: click.echo(str(given))))
    assert [each.name for each in command.params] == ["first", "second", "third"]
    assert CliRunner().invoke(command, ["--second", "x"]).output == "{'second': 'x', 'first': None, 'third': None}\n"


def test_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    _options.print_page("MeshCheck", {"checks": []})
    expected = """\
{
  "apiVersion": "meshproxy.dev/v1alpha1",
  "kind": "MeshCheck",
  "checks": []
}
"""
    assert capsys.readouterr().out == expected


def test_help() -> None:
    assert "What for.  [default: info]" in run("--help")
    assert "The format of the output.  [default: text]" in run("--help")
