from __future__ import annotations

from benchmarks.report import compared, table
from benchmarks.runner import Measured


def measured(**peers: list[float]) -> Measured:
    figures = {
        peer: [{"cpu_us": value, "per_second": 1e6 / value} for value in values] for peer, values in peers.items()
    }
    return Measured("cpu-rest", "CPU per request", ("cpu_us", "per_second"), figures)


def test_a_ratio_is_shown_with_its_range() -> None:
    found = measured(envoy=[100.0, 110.0, 100.0], meshproxy=[60.0, 66.0, 65.0])
    assert compared(found, "meshproxy", "cpu_us") == "0.60 (0.60-0.65)"
    assert compared(found, "envoy", "cpu_us") == ""


def test_a_noisy_ratio_is_not_shown_but_why() -> None:
    found = measured(envoy=[100.0, 200.0, 100.0], meshproxy=[60.0, 66.0, 65.0])
    assert compared(found, "meshproxy", "cpu_us") == "noisy"
    assert "no ratio: the other side's rounds differ by 100%, more than 35%" in table(found)


def test_nothing_is_divided_by_or_for_the_direct_way() -> None:
    found = measured(direct=[10.0] * 3, meshproxy=[60.0] * 3)
    assert compared(found, "direct", "cpu_us") == compared(found, "meshproxy", "cpu_us") == ""


def test_a_table_has_a_row_for_every_peer_and_the_reasons_of_those_without_figures() -> None:
    found = measured(envoy=[100.0] * 3)
    found.failures["meshproxy"] = "it did not start"
    found.figures["envoy"][0] |= {"machine_busy": 0.9, "machine_others": 0.2, "machine_steal": 0.01}
    lines = table(found).splitlines()
    assert lines[0] == "cpu-rest: CPU per request"
    assert lines[2].split() == ["envoy", "100", "(100-100)", "10,000", "(10,000-10,000)"]
    assert lines[3] == "  meshproxy: no figure: it did not start"
    assert lines[4] == "  machine: 90% busy, 20% with other processes, 1.0% stolen"


def test_a_latency_is_shown_beside_what_the_hop_added() -> None:
    figures = {
        "direct": [{"p50_ms": 0.2, "p99_ms": 0.5}] * 3,
        "meshproxy": [{"p50_ms": 0.5, "p99_ms": 1.0}, {"p50_ms": 0.4, "p99_ms": 1.2}, {"p50_ms": 0.6, "p99_ms": 1.1}],
    }
    text = table(Measured("latency-rest-500", "latency", ("p50_ms", "p99_ms"), figures))
    assert "0.30 (0.20-0.40)" in text
    assert "meshproxy: the hop adds 0.30 ms at the median and 0.60 ms at p99: below the 1 to 3 ms" in text


def test_a_disturbed_machine_gives_no_verdict_on_latencies() -> None:
    machine = {"machine_busy": 1.0, "machine_others": 0.6, "machine_steal": 0.0}
    figures = {peer: [{"p50_ms": 0.5, "p99_ms": 1.0} | machine] * 3 for peer in ("direct", "meshproxy")}
    text = table(Measured("latency-rest-500", "latency", ("p50_ms", "p99_ms"), figures))
    assert "meshproxy: no verdict: other processes took 60% of the machine, more than 10%" in text
