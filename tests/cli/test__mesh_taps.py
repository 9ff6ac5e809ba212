"""`meshproxy tap --control` before something that sends lines. A real mesh: tests/processes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli._mesh_taps import LONGEST
from meshproxy.cli.main import main
from meshproxy.control import taps
from tests.cli.conftest import Lines, call


def run(*options: str) -> Result:
    return CliRunner().invoke(main, ["tap", *options])


def counts(shown: int, matched: int = 1, asked: int = 1, *problems: str) -> dict[str, object]:
    sidecars = {"matched": matched, "asked": asked, "answered": 1}
    return {"tap": {"shown": shown, "overRate": 0, "unread": 0, "sidecars": sidecars, "problems": list(problems)}}


def test_calls_of_sidecars_of_several_control_planes(live: Lines) -> None:
    asked: list[str] = []
    line = call(sidecar="spiffe://m.example/ns/serving/sa/models")
    first = live([counts(0), line, counts(1)], asked=asked)
    second = live([counts(0, 60, 50, "a/b: it is\x1b off")])
    result = run("--control", first, "--control", second, "--sidecar", "serving/*", "--model", "r*", "-t", "30s")
    assert asked == ["/tap?sidecar=serving%2F%2A&seconds=30&model=r%2A&rate=100"]
    assert result.exit_code == 0, "the time of both is over"
    assert [json.loads(each) for each in result.stdout.splitlines()] == [line]
    assert result.stderr == (
        "‼ a/b: it is\\x1b off\n1 call shown; 2 of 51 sidecars showed calls, and 10 more that match were not asked: "
        "name fewer with --sidecar\n"
    )


def test_a_table_names_the_sidecar_first(live: Lines) -> None:
    line = call(sidecar="spiffe://m.example/ns/serving/sa/models")
    result = run("--control", live([counts(0), line], is_open=True), "-n", "1", "-o", "table")
    heading, row = result.stdout.splitlines()
    assert heading.split()[:2] == ["SIDECAR", "TIME"]
    assert row.startswith("serving/models ")
    assert len(row) <= 80


def test_a_control_plane_that_refuses_or_ends_at_once(live: Lines) -> None:
    result = run("--control", live(["there are 4 taps: end one of them"], code=429))
    assert (result.exit_code, "refuses: there are 4 taps" in result.stderr) == (1, True)
    result = run("--control", live([]))
    assert (result.exit_code, "sends no more" in result.stderr) == (1, True)
    result = run("--control", "127.0.0.1:1")
    assert (result.exit_code, "no control plane answers" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sidecar", "a"], "--sidecar takes --control"),
        (["--control", "a:1", "-t", "11m"], "expected at most 10m"),
    ],
)
def test_usage(options: list[str], message: str) -> None:
    result = run(*options)
    assert (result.exit_code, message in result.stderr) == (2, True)


def test_the_bound_is_that_of_the_control_plane() -> None:
    assert LONGEST == taps.LONGEST


def test_a_sidecar_that_says_anything_hides_no_others(live: Lines) -> None:
    good = call(sidecar="spiffe://m.example/ns/serving/sa/models")
    odd = [
        {**good, "sidecar": "odd\x1b", **changes}
        for changes in (
            {"start_time": 1},
            {"duration": "x"},
            {"verb": ["predict"]},
            {"response_code": "x"},
            {"duration": 10**400},
        )
    ]
    result = run("--control", live([counts(0), *odd, good], is_open=True), "-n", "6", "-o", "table")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.count("a line of odd\\x1b cannot be shown") == len(odd)
