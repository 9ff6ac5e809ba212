"""`meshproxy top` before something that sends counts. In a real terminal: tests/processes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result
from rich.console import Console, ConsoleDimensions

from meshproxy.cli import _call_rows, top
from meshproxy.cli._call_rows import Window
from meshproxy.cli._keys import Keys
from meshproxy.cli.main import main
from meshproxy.telemetry.call_stats import Group, Interval
from tests.cli.conftest import Lines, counts

SIZE = ConsoleDimensions(80, 24)


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
    window = Window(10)
    window.add("x", Interval(1.0, [Group({"direction": "inbound", "model": f"m{n}"}, calls=n) for n in range(40)]))
    console = Console(width=80)
    with console.capture() as captured:
        console.print(top._screen(window, ("model",), "rps", wide=False, size=SIZE))
    lines = captured.get().splitlines()
    assert len(lines) == 23
    assert lines[0].startswith("780.0 calls/s in the last 1 s, sorted by rps")
    assert lines[3].startswith("m39 ")
    assert lines[-1].strip() == "... and 21 more"
    assert "waiting for the first second" in str(
        top._screen(Window(1), ("model",), "rps", wide=False, size=SIZE).renderables[0]
    )


def test_a_wide_screen_has_the_columns_that_there_is_room_for() -> None:
    window = Window(10)
    names = {"direction": "inbound", "model": "half_plus_two"}
    window.add("x", Interval(1.0, [Group(names, calls=4, seconds=0.2, buckets={32: 4})]))
    headings = {}
    for width in (40, 60, 70, 80, 200):
        console = Console(width=width)
        with console.capture() as captured:
            size = ConsoleDimensions(width, 24)
            console.print(top._screen(window, ("model",), "rps", wide=True, size=size))
        lines = captured.get().splitlines()
        assert len(lines) == 4
        assert max(map(len, lines)) <= width
        headings[width] = lines[2].split()[-1], lines[3].split()[1]
    assert headings == {
        40: ("P50", "half_plus_two"),
        60: ("RETRIES", "half_pl…"),
        70: ("DENIED", "half_plus…"),
        80: ("DENIED", "half_plus_two"),
        200: ("OUT", "half_plus_two"),
    }
