"""`meshproxy top` before something that sends counts. In a real terminal: tests/processes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli import _call_rows, top
from meshproxy.cli._call_rows import Window
from meshproxy.cli._keys import Keys
from meshproxy.cli.main import main
from meshproxy.telemetry.call_stats import Group, Interval
from tests.cli.conftest import Lines, counts


def run(address: str, *options: str) -> Result:
    return CliRunner().invoke(main, ["top", "--admin", address, *options])


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "REFRESH_SECONDS", 0.05)


def test_json_is_a_line_for_each_refresh_until_the_sidecar_ends(live: Lines) -> None:
    result = run(live([counts(), counts()]))
    assert result.exit_code == 1
    assert "has ended" in result.stderr
    for line in result.stdout.splitlines():
        assert json.loads(line)["kind"] == "CallStats"


def test_a_screen_until_q(live: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = iter(["", "s", "x", "q"])
    monkeypatch.setattr(Keys, "pressed", lambda self: next(keys))
    result = run(live([counts(), counts()], is_open=True), "-o", "table")
    assert result.exit_code == 0
    assert "sorted by p99 (s: next, q: end)" in result.stdout
    assert "resnet" in result.stdout


def test_interrupted(live: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(keys: Keys) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(Keys, "pressed", interrupt)
    assert run(live([counts()], is_open=True), "-o", "table").exit_code == 130


def test_the_orders_are_those_that_rows_have() -> None:
    assert list(top.SORTS) == list(_call_rows.SORTS)


def test_a_screen_has_no_more_rows_than_there_is_room() -> None:
    from rich.console import Console

    window = Window(10)
    window.add("x", Interval(1.0, [Group({"direction": "inbound", "model": f"m{n}"}, calls=n) for n in range(40)]))
    console = Console(width=80)
    with console.capture() as captured:
        console.print(top._screen(window, ("model",), "rps", wide=False, height=24))
    lines = captured.get().splitlines()
    assert len(lines) == 23
    assert lines[0].startswith("780.0 calls/s in the last 1 s, sorted by rps")
    assert lines[3].startswith("m39 ")
    assert lines[-1].strip() == "... and 21 more"
    assert "waiting for the first second" in str(
        top._screen(Window(1), ("model",), "rps", wide=False, height=24).renderables[0]
    )
