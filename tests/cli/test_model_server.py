from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshproxy.cli.model_server import command
from meshproxy.devtools.child import MODEL_SERVER, Child


def test_help_tells_the_ports_and_the_models() -> None:
    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    for word in ("--rest-port", "--port", "half_plus_two=1,2", "--failure-rate", "--latency-ms", "--concurrency"):
        assert word in result.output


def test_a_model_that_cannot_be_read_is_a_usage_error() -> None:
    result = CliRunner().invoke(command, ["--model", "m=one"])
    assert result.exit_code == 2
    assert "--model" in result.output


def test_a_certificate_without_its_key_is_a_usage_error() -> None:
    for options in (["--tls-certificate", __file__], ["--rest-tls"]):
        result = CliRunner().invoke(command, options)
        assert result.exit_code == 2
        assert "--tls-key" in result.output


def test_without_its_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "meshproxy.devtools.model_server", raising=False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 1
    assert "pipx install --force '.[control,demo]'" in result.output


async def test_as_a_process_it_says_where_it_listens_and_stops_when_told(tmp_path: Path) -> None:
    child = await Child.start("the model server", *MODEL_SERVER, "--model", "m=1", directory=tmp_path)
    assert child.listening["models"] == ["m"]
    assert not str(child.listening["rest"]).endswith(":0")
    assert await child.stop() == 0
