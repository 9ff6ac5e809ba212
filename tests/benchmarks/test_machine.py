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
    mood = Mood(0.0).since(0.0)
    assert all(0 <= share <= 1 for share in mood.values())
    assert mood["machine_others"] <= mood["machine_busy"]


def test_what_we_took_was_not_taken_by_others() -> None:
    assert Mood(0.0).since(1e9)["machine_others"] == 0.0


def test_a_process_that_is_gone_costs_nothing() -> None:
    assert cpu_seconds(2**22 + 1) == 0.0
    assert status_bytes(2**22 + 1, "VmRSS") == 0
