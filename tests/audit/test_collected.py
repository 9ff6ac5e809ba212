from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.audit import collected as module
from meshproxy.audit.collected import BEGINNING, SCOPE, collected
from meshproxy.audit.verify import Verifier
from tests.audit.trails import PUBLIC, trail


def request(*lines: bytes, scope: str = SCOPE) -> bytes:
    """A request in the form of the file exporter."""
    records = [{"timeUnixNano": "5", "body": {"stringValue": line.decode().rstrip("\n")}} for line in lines]
    resource = {"resource": {}, "scopeLogs": [{"scope": {"name": scope}, "logRecords": records}]}
    return json.dumps({"resourceLogs": [resource]}, separators=(",", ":")).encode() + b"\n"


def batches(lines: tuple[bytes, ...], size: int) -> list[bytes]:
    return [request(*lines[start : start + size]) for start in range(0, len(lines), size)]


@given(st.integers(1, 40), st.randoms(use_true_random=False), st.integers(0, 5))
def test_batches_may_be_there_twice_and_in_any_order(size: int, chance: random.Random, twice: int) -> None:
    lines = trail(100)
    found = batches(lines, size)
    assert found[0].startswith(BEGINNING)
    found += chance.choices(found, k=twice)
    chance.shuffle(found)
    assert tuple(collected(found)) == lines


def test_two_writers_and_records_of_others() -> None:
    one, other = trail(10), trail(10, writer="b@h")
    mixed = [each for pair in zip(batches(one, 3), batches(other, 3), strict=True) for each in pair]
    found = [*collected([*mixed, request(b"an application logs", scope="app")])]
    assert [line for line in found if line in one] == list(one)
    assert [line for line in found if line in other] == list(other)
    assert len(found) == len(one) + len(other)


def test_what_was_changed_or_removed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = trail(100)
    monkeypatch.setattr(module, "WINDOW", 10)
    for tampered in (
        [lines[0], lines[1].replace(b"permitted", b"denied   "), *lines[2:]],
        [*lines[:50], *lines[51:]],
        [*lines[:50], lines[50].replace(b"corp", b"corq"), *lines[50:]],
        [*lines[:50], b"nothing of a trail\n", *lines[50:]],
    ):
        verifier = Verifier([PUBLIC])
        verifier.read("f", collected(batches(tuple(tampered), 7)))
        verifier.finish()
        assert verifier.problem_count
    verifier = Verifier([PUBLIC])
    verifier.read("f", collected(batches(lines, 7)))
    verifier.finish()
    assert verifier.is_whole


@given(st.binary(max_size=60))
def test_what_is_no_request_comes_out_as_it_is(noise: bytes) -> None:
    found = [*collected([BEGINNING + noise])]
    assert found in ([], [BEGINNING + noise])


def test_a_request_that_is_nested_without_end_comes_out_as_it_is() -> None:
    deep = BEGINNING + b"[" * 50_000
    assert [*collected([deep])] == [deep]
