from __future__ import annotations

from benchmarks.machine import Mood, describe
from benchmarks.processes import cpu_seconds, status_bytes


def test_a_machine_is_described_well_enough_to_compare() -> None:
    found = describe()
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0
    assert found["packages"]["uvloop"]
    assert {"date", "commit", "has_changes", "processor", "kernel", "python", "openssl"} <= set(found)


def test_shares_of_the_machine_are_shares() -> None:
    mood = Mood().since()
    assert all(0 <= share <= 1 for share in mood.values())


def test_a_process_that_is_gone_costs_nothing() -> None:
    assert cpu_seconds(2**22 + 1) == 0.0
    assert status_bytes(2**22 + 1, "VmRSS") == 0
