from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from meshproxy.config.telemetry import (
    AccessLogLines,
    Keep,
    ServerMetrics,
    Traces,
    read_audit_log,
    read_collector,
    resolve_audit_log,
)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("http://otel-collector:4318", "http://otel-collector:4318"),
        ("https://collector.example", "https://collector.example"),
        ("http://[::1]:4318/", "http://[::1]:4318"),
        ("http://gateway:80/otlp//", "http://gateway:80/otlp"),
    ],
)
def test_a_collector_is_a_url_without_a_slash_at_its_end(text: str, read: str) -> None:
    """`//v1/traces` is answered with a redirect by a collector, and the spans would be lost."""
    assert read_collector(text) == read


@pytest.mark.parametrize(
    "value",
    [
        4318,
        "",
        "otel-collector:4318",
        "grpc://otel-collector:4317",
        "http://user@otel-collector",
        "http://otel collector",
        "http://otel-collector:0",
        "http://otel-collector:65536",
        "http://otel-collector/?a=b",
        "http://otel-collector/#a",
        "http://otel-collector/\r\nx: y",
        "http://" + "a/" * 600,
    ],
)
def test_other_texts_are_none(value: object) -> None:
    with pytest.raises(ValueError):
        read_collector(value)


def test_failures_and_refusals_are_kept_unless_told_otherwise() -> None:
    assert Traces(endpoint="http://c").keep == Keep(errors=True, refusals=True, slower_than=None)


def test_the_interval_of_the_model_servers_page_is_bounded() -> None:
    assert msgspec.convert({}, ServerMetrics).interval == 15.0
    for seconds in (0.5, 301.0):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"interval": seconds}, ServerMetrics)


def test_an_access_log_in_which_nothing_could_be_is_an_error() -> None:
    with pytest.raises(ValueError, match="no request would have a line"):
        AccessLogLines(ratio=0.0, keep=Keep(errors=False, refusals=False))
    for keep in (Keep(), Keep(errors=False, refusals=False, slower_than=1.0)):
        assert AccessLogLines(ratio=0.0, keep=keep).keep is keep
    assert AccessLogLines(ratio=0.1, keep=Keep(errors=False, refusals=False)).format == "json"


def test_an_audit_log_may_be_a_collector() -> None:
    folder = Path("/etc/mesh")
    for text, read, resolved in (
        ("off", "off", "off"),
        ("stdout", "stdout", "stdout"),
        ("./audit.jsonl", "./audit.jsonl", "/etc/mesh/audit.jsonl"),
        ("https://collector:4318/", "https://collector:4318", "https://collector:4318"),
    ):
        assert read_audit_log(text) == read
        assert resolve_audit_log(folder, read) == resolved
    for bad in ("http://", "http://a:0", "HTTPS://user@a", "audit.jsonl", 1, None):
        with pytest.raises(ValueError):
            read_audit_log(bad)
