from __future__ import annotations

from benchmarks.runner import Measured
from benchmarks.targets import needed_works, targets, verdicts
from benchmarks.works.catalogue import catalogue


def work(name: str, **peers: dict[str, list[float]]) -> Measured:
    figures = {
        peer: [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        for peer, values in peers.items()
    }
    return Measured(name, "", (), figures)


def test_targets_are_about_works_that_there_are() -> None:
    assert {target.work for target in targets()} < set(needed_works()) <= {found.name for found in catalogue()}


def test_a_ratio_is_met_missed_or_unknown() -> None:
    def said(*values: float) -> str:
        return verdicts([work("cpu-rest", envoy={"cpu_us": [100.0] * 3}, meshproxy={"cpu_us": list(values)})])

    assert said(47, 49, 48).splitlines()[1].split()[:2] == ["met", "cpu-rest"]
    assert said(90, 92, 91).splitlines()[1].split()[:2] == ["MISSED", "cpu-rest"]
    assert said(50, 90, 70).splitlines()[1].split()[:2] == ["?", "cpu-rest"]
    assert "noisy: this side's rounds differ by 57%" in said(50, 90, 70)


def test_latencies_are_held_against_the_direct_way_and_envoy() -> None:
    latency = work(
        "latency-rest-500",
        direct={"p50_ms": [0.2] * 3, "p99_ms": [0.5] * 3},
        envoy={"p50_ms": [0.5] * 3, "p99_ms": [1.0] * 3},
        meshproxy={"p50_ms": [0.4] * 3, "p99_ms": [1.8] * 3},
    )
    states = [line.split()[0] for line in verdicts([latency]).splitlines()[1:]]
    assert states == ["met", "MISSED", "MISSED", "met", "MISSED"]


def test_more_rules_are_held_against_ten() -> None:
    few = work("rules-rest-10", meshproxy={"cpu_us": [100.0, 110.0, 100.0]})
    many = work("rules-rest-10000", meshproxy={"cpu_us": [105.0, 112.0, 108.0]})
    assert verdicts([few, many]).splitlines()[1].split()[0] == "met"


def test_traces_are_held_against_none_and_against_envoys() -> None:
    telemetry = work(
        "telemetry-rest",
        **{
            "envoy-traces": {"cpu_us": [100.0] * 3},
            "meshproxy": {"cpu_us": [80.0, 90.0, 80.0]},
            "meshproxy-traces": {"cpu_us": [82.0, 92.5, 82.0]},
            "meshproxy-traces-all": {"cpu_us": [110.0, 116.0, 106.0]},
            "meshproxy-traces-silent": {"cpu_us": [82.0, 92.0, 82.0]},
        },
    )
    lines = verdicts([telemetry]).splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["met", "met", "MISSED", "met", "?"]


def test_a_work_without_meshproxy_says_nothing() -> None:
    assert verdicts([work("cpu-rest", envoy={"cpu_us": [100.0] * 3})]) == ""


def test_a_failure_is_no_figure() -> None:
    failed = Measured("rss", "", (), failures={"meshproxy": "it did not start"})
    assert "no figure" in verdicts([failed])


def test_a_call_is_held_against_an_envoy_that_reads_its_model() -> None:
    call = work("cpu-grpc", **{"envoy-fields": {"cpu_us": [100.0] * 3}, "meshproxy": {"cpu_us": [39.0, 40.0, 38.0]}})
    lines = verdicts([call]).splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["?", "met"]
    assert "envoy-fields" in lines[1]


def test_a_worker_more_is_held_against_one() -> None:
    one = work("workers-cpu-1", meshproxy={"cpu_us": [100.0, 102.0, 101.0]})
    two = work("workers-cpu-2", meshproxy={"cpu_us": [104.0, 107.0, 106.0]})
    assert verdicts([one, two]).splitlines()[1].split()[0] == "met"
