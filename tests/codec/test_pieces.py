"""Small pieces of a body are joined, large ones are not copied."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.pieces import JOINED, SMALL, join


def kept(pieces: list[bytes]) -> list[bytes | bytearray]:
    found: list[bytes | bytearray] = []
    for piece in pieces:
        joined = join(found[-1], piece) if found else None
        if joined is not None:
            found[-1] = joined
        else:
            found.append(piece)
    return found


def test_small_pieces_are_joined_up_to_a_size() -> None:
    found = kept([b"x"] * (JOINED + 2))
    assert [len(each) for each in found] == [JOINED, 2]


def test_large_ones_stay_as_they_are() -> None:
    large, small = bytes(SMALL), bytes(SMALL - 1)
    assert join(large, b"x") is None
    assert join(small, large) is None
    assert [each is large for each in kept([large, large])] == [True, True]
    assert [len(each) for each in kept([small, small, large, b"x", b"y"])] == [2 * SMALL - 2, SMALL, 2]


@given(st.lists(st.integers(1, 3 * SMALL)))
def test_nothing_is_lost(sizes: list[int]) -> None:
    pieces = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    assert b"".join(kept(pieces)) == b"".join(pieces)
