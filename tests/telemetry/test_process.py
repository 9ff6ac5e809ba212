from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshproxy.telemetry.exposition import render
from meshproxy.telemetry.metrics import Registry
from meshproxy.telemetry.process import watch_process


def read(registry: Registry) -> dict[str, float]:
    text = b"".join(render(registry)).decode()
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


def test_this_process() -> None:
    registry = Registry()
    watch_process(registry)
    before = read(registry)
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(10)]
    after = read(registry)
    for descriptor in held:
        os.close(descriptor)
    assert after["process_open_fds"] - before["process_open_fds"] == 10
    assert 1e6 < after["process_resident_memory_bytes"] < after["process_virtual_memory_bytes"]
    assert before["process_cpu_seconds_total"] <= after["process_cpu_seconds_total"] <= time.process_time()
    assert after["process_max_fds"] >= after["process_open_fds"]
    assert time.time() - 3_600 < after["process_start_time_seconds"] <= time.time() + 1


def test_the_fields_of_proc(tmp_path: Path) -> None:
    own = tmp_path / "self"
    (own / "fd").mkdir(parents=True)
    (tmp_path / "stat").write_text("cpu  1 2 3\nbtime 1700000000\nprocesses 5\n")
    # A name with a space and a parenthesis must not shift the fields.
    fields = ["S", *map(str, range(4, 22)), str(50 * os.sysconf("SC_CLK_TCK")), "23"]
    (own / "stat").write_text(f"42 (a) b) {' '.join(fields)}\n")
    (own / "statm").write_text("300 200 1 1 0 1 0\n")
    registry = Registry()
    watch_process(registry, tmp_path)
    found = read(registry)
    assert found["process_start_time_seconds"] == 1_700_000_050
    assert found["process_virtual_memory_bytes"] == 300 * os.sysconf("SC_PAGE_SIZE")
    assert found["process_resident_memory_bytes"] == 200 * os.sysconf("SC_PAGE_SIZE")


def test_without_proc_the_rest_is_still_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry()
    watch_process(registry, tmp_path)
    found = read(registry)
    assert set(found) == {"process_cpu_seconds_total", "process_max_fds", "process_start_time_seconds"}
    assert found["process_start_time_seconds"] == 0
    assert "process_open_fds" in caplog.text
