"""`meshproxy status` before something that answers as a sidecar does, or does not. A real one: tests/processes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.main import main
from tests.cli.conftest import Serve
from tests.sidecar.conftest import status


def run(address: str, *options: str) -> Result:
    return CliRunner().invoke(main, ["status", "--admin", address, *options])


def test_a_sidecar_that_is_well(serve: Serve) -> None:
    result = run(serve(status()))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("sidecar     meshproxy 1.2.3 at 127.0.0.1:")


def test_what_needs_attention_fails(serve: Serve) -> None:
    result = run(serve(status(attention=["the certificate has expired"])))
    assert result.exit_code == 3
    assert "attention   ! the certificate has expired\n" in result.stdout


@pytest.mark.parametrize("attention", [[], ["something"]])
def test_json(serve: Serve, attention: list[str]) -> None:
    said = status(attention=attention)
    result = run(serve(said), "-o", "json")
    assert json.loads(result.stdout) == said
    assert result.exit_code == (3 if attention else 0)


def test_nobody_is_there(serve: Serve) -> None:
    result = run("127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "no sidecar answers at 127.0.0.1:1: Connection refused" in result.stderr


@pytest.mark.parametrize(
    ("answer", "code"), [("not found", 404), ("<html>", 200), ({"kind": "Pod"}, 200), ([], 200), (status(), 500)]
)
def test_somebody_else_is_there(serve: Serve, answer: object, code: int) -> None:
    result = run(serve(answer, code))
    assert result.exit_code == 1
    assert f"answers with status {code} and is not the admin port of a sidecar" in result.stderr


def test_nothing_comes(serve: Serve) -> None:
    result = run(serve({}, hangs=True), "--timeout", "0.1")
    assert result.exit_code == 1
    assert "no answer within 0.1 s" in result.stderr


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.0.0.1:18502", "answers on loopback only"),
        ("example.com:18502", "answers on loopback only"),
        ("127.0.0.1", "expected HOST:PORT"),
        ("127.0.0.1:0", "expected HOST:PORT"),
        ("127.0.0.1:99999", "expected HOST:PORT"),
    ],
)
def test_addresses_that_are_none(address: str, why: str) -> None:
    result = run(address)
    assert result.exit_code == 2
    assert why in result.stderr
