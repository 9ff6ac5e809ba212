from __future__ import annotations

from benchmarks.behind import behind
from benchmarks.runner import Measured


def work(headline: tuple[str, ...], **series: list[dict[str, float]]) -> Measured:
    return Measured("work", "a question", headline, figures=series)


def test_what_is_worse_than_envoys_is_listed_whichever_way_its_figure_goes() -> None:
    found = work(
        ("cpu_us", "per_second", "peak_rss_mb"),
        envoy=[{"cpu_us": 50.0, "per_second": 900.0, "peak_rss_mb": 90.0}],
        meshproxy=[{"cpu_us": 60.0, "per_second": 800.0, "peak_rss_mb": 60.0}],
    )
    assert behind([found]).splitlines() == [
        "where envoy is better: work, figure, envoy, meshproxy",
        "  work  CPU µs/req  50.0  60.0",
        "  work  req/s       900   800",
    ]


def test_figures_of_the_same_size_are_not() -> None:
    assert behind([work(("cpu_us",), envoy=[{"cpu_us": 50.0}], meshproxy=[{"cpu_us": 50.5}])]) == ""


def test_the_median_of_the_rounds_counts() -> None:
    ours: list[dict[str, float]] = [{"cpu_us": value} for value in (40.0, 60.0, 90.0)]
    assert "60.0" in behind([work(("cpu_us",), envoy=[{"cpu_us": 50.0}] * 3, meshproxy=ours)])


def test_of_a_latency_it_is_what_the_hop_adds() -> None:
    found = work(("p50_ms",), direct=[{"p50_ms": 0.1}], envoy=[{"p50_ms": 0.4}], meshproxy=[{"p50_ms": 0.5}])
    assert behind([found]).splitlines()[1].split() == ["work", "added", "p50", "ms", "0.30", "0.40"]


def test_what_only_one_of_them_has_is_left_out() -> None:
    assert behind([work(("cpu_us",), envoy=[{}], meshproxy=[{"cpu_us": 60.0}])]) == ""
    assert behind([work(("cpu_us",), meshproxy=[{"cpu_us": 60.0}])]) == ""
