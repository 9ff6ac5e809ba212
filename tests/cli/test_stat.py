"""`meshproxy stat` before something that sends counts. A real sidecar: tests/processes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli import _live
from meshproxy.cli.main import main
from tests.cli.conftest import Lines, counts


def run(address: str, *options: str) -> Result:
    return CliRunner().invoke(main, ["stat", "--admin", address, *options])


def test_json(live: Lines) -> None:
    asked: list[str] = []
    result = run(live([counts(), counts()], is_open=True, asked=asked), "-t", "2s", "--caller", "a/*")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    (group,) = found.pop("groups")
    assert found == {"apiVersion": "meshproxy.dev/v1alpha1", "kind": "CallStats", "seconds": 2.0}
    assert (group["model"], group["calls"], group["callsPerSecond"], group["success"]) == ("resnet", 20, 10.0, 1.0)
    assert asked == ["/stat?by=model&by=version&caller=a%2F%2A"]


def test_a_table(live: Lines) -> None:
    result = run(live([counts()], is_open=True), "-t", "1", "-o", "table")
    heading, row = result.stdout.splitlines()
    assert heading.split() == ["MODEL", "VERSION", "SUCCESS", "RPS", "P50", "P95", "P99", "RETRIES", "DENIED"]
    assert row.split()[:4] == ["resnet", "latest", "100%", "10.0"]
    assert "MEAN" in run(live([counts()], is_open=True), "-t", "1", "-o", "wide").stdout


def test_nothing_was_called(live: Lines) -> None:
    quiet = {"seconds": 1.0, "groups": []}
    result = run(live([quiet], is_open=True), "-t", "1s", "-o", "table")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no calls ended in 1 s\n")
    assert json.loads(run(live([quiet], is_open=True), "-t", "1s").stdout)["groups"] == []


def test_interrupted_it_shows_what_it_has_seen(live: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = _live.Lines.next

    def interrupt(lines: _live.Lines, timeout: float | None = None) -> object:
        found = ask(lines, 5)
        if found is None or found[1] is None:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(_live.Lines, "next", interrupt)
    result = run(live([counts(), counts()]), "-t", "1h")
    assert result.exit_code == 130
    assert json.loads(result.stdout)["groups"][0]["calls"] == 20


def test_a_sidecar_that_ends(live: Lines) -> None:
    result = run(live([counts()]))
    assert result.exit_code == 1
    assert "has ended" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--by", "modl"], "'modl' is not one of 'model', 'version'"),
        (["-t", "100ms"], "expected 1s to 1h, got 100ms"),
        (["-t", "2h"], "expected 1s to 1h, got 2h"),
        (["-t", "soon"], "expected a duration"),
    ],
)
def test_options_that_are_wrong(options: list[str], message: str) -> None:
    result = run("127.0.0.1:1", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
