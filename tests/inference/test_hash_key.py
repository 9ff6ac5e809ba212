from __future__ import annotations

import subprocess
import sys

import pytest

from meshproxy.inference.hash_key import stable_hash


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), 0xE4A6A0577479B2B4),
        ((b"",), 0x402DB780D8E197F7),
        ((b"a", b"b"), 0x42DE60BAC299D468),
    ],
)
def test_the_hash_never_changes(parts: tuple[bytes, ...], expected: int) -> None:
    assert stable_hash(*parts) == expected


def test_the_hash_is_the_same_in_every_process() -> None:
    program = "from meshproxy.inference.hash_key import stable_hash; print(stable_hash(b'a', b'b'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == stable_hash(b"a", b"b")


def test_the_hash_tells_its_parts_apart() -> None:
    keys = [(), (b"",), (b"", b""), (b"ab",), (b"a", b"b"), (b"b", b"a"), (b"a", b"", b"b"), (b"1:a",), (b"a1:b",)]
    assert len({stable_hash(*parts) for parts in keys}) == len(keys)


def test_the_hash_spreads_evenly() -> None:
    counts = [0] * 10
    for i in range(10_000):
        counts[stable_hash(b"model", b"%d" % i) % 10] += 1
    assert min(counts) > 900
    assert max(counts) < 1100
