"""The page as TensorFlow Serving writes it (its own test: `util/prometheus_exporter_test.cc`)."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from meshproxy.devtools.model_metrics import ModelMetrics


def samples(page: str) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_latencies_of_successes_by_model_api_and_entry_point() -> None:
    metrics = ModelMetrics()
    metrics.record("m", "OK", "Predict", "GRPC", 0.002)
    metrics.record("m", "OK", "Predict", "GRPC", 0.000_015)
    metrics.record("m", "OK", "Predict", "REST", 0.1)
    metrics.record("m", "NOT_FOUND", "Predict", "GRPC", 0.1)
    metrics.record("m", "OK", "MultiInference", "GRPC", 0.1)
    found = samples(metrics.page())
    assert found[":tensorflow:serving:request_count_total"] == {("m", "NOT_FOUND"): 1, ("m", "OK"): 4}
    assert found[":tensorflow:serving:request_latency_count"] == {
        ("m", "Predict", "GRPC"): 2,
        ("m", "Predict", "REST"): 1,
    }
    assert found[":tensorflow:serving:request_latency_sum"]["m", "Predict", "GRPC"] == 2_015
    buckets = found[":tensorflow:serving:request_latency_bucket"]
    assert buckets["m", "Predict", "GRPC", "10"] == 0
    assert buckets["m", "Predict", "GRPC", "18"] == 1
    assert buckets["m", "Predict", "GRPC", "+Inf"] == 2
    assert sum(labels[2] == "GRPC" for labels in buckets) == 34


def test_sums_have_six_digits() -> None:
    metrics = ModelMetrics()
    metrics.record("m", "OK", "Predict", "GRPC", 1.234_567)
    assert "_sum{" in metrics.page()
    assert "} 1.23457e+06\n" in metrics.page()


def test_line_feeds_are_not_escaped() -> None:
    metrics = ModelMetrics()
    metrics.record('a"\\\n', "NOT_FOUND", "Predict", "GRPC", 0.0)
    assert 'model_name="a\\"\\\\\n",' in metrics.page()
