"""`meshproxy capture`."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.capture import command
from meshproxy.injection.capture import Capture, rules

RULES = rules(Capture(inbound=(8500, 8501), outbound=(8500,), excluded=(ip_network("10.0.0.0/8"),), user=7))
OPTIONS = ("--inbound", "8500,8501", "--outbound", "8500", "--exclude", "10.0.0.0/8", "--user", "7")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


@pytest.fixture
def nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the place of `nft`: keeps what it reads in `rules`, and ends as it is told."""
    program = tmp_path / "nft"
    program.write_text(
        f'#!/bin/sh\ncat > "{tmp_path}/rules"\n[ ! -e "{tmp_path}/says" ] || {{ cat "{tmp_path}/says" >&2; exit 1; }}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_rules_are_printed() -> None:
    result = run("rules", *OPTIONS)
    assert (result.exit_code, result.output) == (0, RULES)


def test_rules_are_put_into_force(nft: Path) -> None:
    result = run("apply", *OPTIONS)
    assert (result.exit_code, result.output) == (0, "")
    assert (nft / "rules").read_text() == RULES


def test_what_nft_refuses_is_told_with_what_to_do(nft: Path) -> None:
    (nft / "says").write_text("Operation not permitted (you must be root)\n")
    result = run("apply", *OPTIONS)
    assert result.exit_code == 1
    assert "Operation not permitted" in result.output
    assert "CAP_NET_ADMIN" in result.output


def test_without_nft(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("apply", *OPTIONS)
    assert result.exit_code == 1
    assert "nft is missing" in result.output


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--inbound", "grpc"], "'grpc' is not a list of ports"),
        (["--inbound", "1", "--exclude", "10.0.0.1/8"], "has host bits set"),
        ([], "nothing is captured"),
    ],
)
def test_bad_options(options: list[str], problem: str) -> None:
    result = run("rules", *options)
    assert result.exit_code == 2
    assert problem in result.output
