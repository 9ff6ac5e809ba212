from __future__ import annotations

from click.testing import CliRunner

from meshproxy.cli.model_server import command


def test_help_tells_the_ports_and_the_models() -> None:
    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    for word in ("--rest-port", "--port", "half_plus_two=1,2", "--failure-rate", "--latency-ms"):
        assert word in result.output


def test_a_model_that_cannot_be_read_is_a_usage_error() -> None:
    result = CliRunner().invoke(command, ["--model", "m=one"])
    assert result.exit_code == 2
    assert "--model" in result.output
