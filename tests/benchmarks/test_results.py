from __future__ import annotations

import json
import sys
from array import array
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.peers.direct import Direct
from benchmarks.results import encoded, heading, latency_curve, save
from benchmarks.runner import Measured

MACHINE = {
    "date": "2026-01-01T00:00:00+00:00",
    "commit": "abc",
    "has_changes": True,
    "processor": "a processor",
    "cores": 2,
    "kernel": "6",
    "python": "3.11",
}
SETTINGS = {"rounds": 3, "duration": 5.0, "varies": True, "neighbour": False}


def cpu() -> Measured:
    return Measured("cpu-rest", "CPU per request: REST", ("cpu_us",), {"envoy": [{"cpu_us": 100.0}, {"cpu_us": 90.0}]})


def latency() -> Measured:
    values = array("d", (0.001 * number for number in range(1, 101)))
    return Measured("latency-rest-500", "latency at 500/s", ("p50_ms",), {}, latencies={"direct": values})


class FakeHistogram:
    """As much of hdrh's as is used: the package is no requirement of the tests."""

    def __init__(self, lowest: int, highest: int, digits: int) -> None:
        self.range = (lowest, highest, digits)
        self.values: list[int] = []

    def record_value(self, value: int) -> None:
        self.values.append(value)

    def encode(self) -> bytes:
        return repr((*self.range, *self.values)).encode()


@pytest.fixture(autouse=True)
def histograms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never the package itself, if `make bench` has installed it: importing it warns on Python 3.14."""
    module = ModuleType("hdrh.histogram")
    module.HdrHistogram = FakeHistogram  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hdrh", ModuleType("hdrh"))
    monkeypatch.setitem(sys.modules, "hdrh.histogram", module)


def test_a_histogram_holds_microseconds() -> None:
    assert encoded(array("d", [0.001, 0.0025, 1e-9])) == "(1, 60000000, 3, 1000, 2500, 1)"


def test_without_the_package_there_is_no_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdrh.histogram", None)
    assert encoded(array("d", [0.001])) is None


def test_everything_measured_is_in_the_file(tmp_path: Path) -> None:
    save(tmp_path, MACHINE, SETTINGS, {"direct": Direct()}, [cpu(), latency()])
    document = json.loads((tmp_path / "latest.json").read_text())
    assert document["machine"] == MACHINE
    assert document["peers"]["direct"]["version"] == "-"
    assert document["works"][0]["figures"] == {"envoy": [{"cpu_us": 100.0}, {"cpu_us": 90.0}]}
    assert set(document["works"][1]["histograms"]) == {"direct"}


def test_tables_and_pictures_are_written_where_there_is_data(tmp_path: Path) -> None:
    save(tmp_path, MACHINE, SETTINGS, {"direct": Direct()}, [cpu()])
    assert {file.name for file in tmp_path.iterdir()} == {"latest.json", "latest.txt", "cpu-per-request.svg"}
    save(tmp_path, MACHINE, SETTINGS, {"direct": Direct()}, [latency()])
    assert (tmp_path / "latency-rest-500.svg").exists()
    assert "commit abc with changes" in (tmp_path / "latest.txt").read_text()


def test_a_heading_says_when_where_and_how_long() -> None:
    rounds = "3 rounds of 5 s; median (lowest-highest round); "
    assert heading(MACHINE, SETTINGS).endswith(rounds + "requests differ from one another")
    assert heading(MACHINE, {**SETTINGS, "varies": False}).endswith(rounds + "all requests are alike")
    assert heading(MACHINE, {**SETTINGS, "neighbour": True}).endswith("; a busy neighbour on the core of the proxy")


def test_a_curve_is_in_milliseconds_and_ends_where_it_knows_no_more() -> None:
    points = latency_curve([0.001] * 200)
    assert points[0] == (0.0, 1.0)
    assert points[-1] == (95.0, 1.0)
