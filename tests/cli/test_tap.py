"""`meshproxy tap` before something that sends lines. A real sidecar: tests/processes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli import _live
from meshproxy.cli.main import main
from tests.cli.conftest import Lines, call


def run(address: str, *options: str) -> Result:
    return CliRunner().invoke(main, ["tap", "--admin", address, *options])


def test_json_is_the_line_of_the_sidecar(live: Lines) -> None:
    asked: list[str] = []
    result = run(
        live([call(), call(model="b")], is_open=True, asked=asked), "-n", "2", "--model", "r*", "--code", "5xx"
    )
    assert (result.exit_code, result.stderr) == (0, "2 calls shown\n")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [call(), call(model="b")]
    assert asked == ["/tap?model=r%2A&code=5xx&rate=100"]


def test_a_table(live: Lines) -> None:
    result = run(live([call(), call(response_code=500)], is_open=True), "-n", "2", "-o", "table")
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["RESULT", "200", "500"]
    wide = run(live([call()], is_open=True), "-n", "1", "-o", "wide")
    assert "ENDPOINT" in wide.stdout


def test_what_was_left_out_is_told(live: Lines) -> None:
    told = [{"tap": {"shown": 1, "overRate": 1_234, "unread": 5}}, call()]
    result = run(live([call(), *told], is_open=True), "-n", "2")
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr == (
        "2 calls shown, 1,234 left out as they were more than --max-rps, 5 left out as they were not read in time\n"
    )


def test_a_sidecar_that_ends(live: Lines) -> None:
    result = run(live([call()]))
    assert result.exit_code == 1
    assert result.stderr.startswith("1 call shown\nError: 127.0.0.1:")
    assert "sends no more: it has ended, or has dismissed this reader" in result.stderr


def test_a_worker_that_ends(live: Lines) -> None:
    workers = [live([]), live([call()], is_open=True)]
    result = run(live([{"workers": workers}], code=421), "-n", "1")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == call()
    assert result.stderr.endswith("1 call shown\n")


def test_interrupted(live: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(lines: _live.Lines, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_live.Lines, "next", interrupt)
    result = run(live([call()], is_open=True))
    assert (result.exit_code, result.stderr) == (130, "0 calls shown\n")


def test_callers_are_hidden_on_request(live: Lines) -> None:
    asked: list[str] = []
    run(live([call()], asked=asked), "--hide-callers", "--max-rps", "7")
    assert asked == ["/tap?rate=7&identities=hidden"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--code", "6xx"], "'--code': expected 503, 5xx, 500-599 or the name of a gRPC status"),
        (["--verb", "predit"], 'did you mean "predict"?'),
        (["--slower", "soon"], "'--slower': expected a duration"),
        (["--max-rps", "0"], "0 is not in the range 1<=x<=1000"),
        (["--admin", "10.0.0.1:18502"], "answers on loopback only"),
    ],
)
def test_options_that_are_wrong(options: list[str], message: str) -> None:
    result = run("127.0.0.1:1", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_nobody_is_there() -> None:
    result = run("127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no sidecar answers at 127.0.0.1:1" in result.stderr
