from __future__ import annotations

import socket
import subprocess
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


@pytest.mark.parametrize(("taken", "other"), [("--rest-port", "--port"), ("--port", "--rest-port")])
def test_a_port_that_is_taken_is_a_sentence(taken: str, other: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        command_line = [*MODEL_SERVER, taken, port, other, "0"]
        done = subprocess.run(command_line, capture_output=True, text=True, check=False, timeout=60)
    # grpcio writes lines of its own before.
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert done.stderr.splitlines()[-1].startswith("Error: cannot listen: ")
    assert port in done.stderr.splitlines()[-1]


def test_a_port_that_is_none_is_a_usage_error() -> None:
    for option in ("--rest-port", "--port"):
        assert CliRunner().invoke(command, [option, "99999"]).exit_code == 2


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
