"""Compares two answers to the same request: a model's, and that of the server which got a copy of the request.

Two versions of a model never give the same bytes. They agree where their numbers are close and everything else is
equal: names, shapes, types, texts. A wire surface reads its answers into outputs; here they are compared.

- Numbers a and b are close if |a - b| is at most `absolute`, or at most `relative` times the larger of |a| and |b|.
  NaN equals NaN and nothing else; infinities equal themselves.
- Top-1: for every row along the last axis of something with two axes or more, the index of its largest number; for
  classifications the label with the highest score.

Work and memory are in proportion to the size of the answers.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf, isclose, isfinite
from operator import sub

from meshproxy.inference.fields import TooMuch, Unreadable
from meshproxy.inference.surface import Comparison, Tolerance

Numbers = Sequence[float] | Sequence[int]
Shape = Sequence[object]
Read = Callable[[bytes], Mapping[str, "Output"]]
"""A whole response body -> its outputs by name. Raises Unreadable, TooMuch, or RecursionError."""

NUMBERS = 262_144
"""Numbers that are compared: 1 MiB of floats, 20 ms."""


def compare_outputs(first_answer: bytes, second_answer: bytes, read: Read, tolerance: Tolerance) -> Comparison | None:
    """Compares two response bodies; None: that would take too long. Nothing is raised, whatever they hold."""
    if first_answer == second_answer:
        return Comparison(True)
    try:
        return _compare(first_answer, second_answer, read, tolerance)
    except TooMuch:
        return None


def _compare(first_answer: bytes, second_answer: bytes, read: Read, tolerance: Tolerance) -> Comparison:
    """Raises TooMuch."""
    try:
        first = read(first_answer)
    except (Unreadable, RecursionError) as error:
        return Comparison(False, reason=f"the first answer cannot be read: {error}")
    try:
        second = read(second_answer)
    except (Unreadable, RecursionError) as error:
        return Comparison(False, reason=f"the second answer cannot be read: {error}")
    if first.keys() != second.keys():
        return Comparison(False, reason="the outputs have different names")
    for name, output in first.items():
        why = output.differs(second[name])
        if why:
            return Comparison(False, reason=f"output {name[:64]!r}: {why}")
    if sum(len(output.numbers) for output in first.values()) > NUMBERS:
        raise TooMuch
    top1_disagrees = False
    most = 0.0
    reason = ""
    for name, output in first.items():
        is_close, difference, moved = output.measure(second[name], tolerance)
        top1_disagrees |= moved
        most = max(most, difference)
        if not is_close and not reason:
            reason = f"output {name[:64]!r}: numbers differ by up to {difference:g}"
    return Comparison(not reason, top1_disagrees, most, reason)


class Output:
    """One output: its numbers in a row, and everything else."""

    __slots__ = ("kind", "numbers", "rows", "shape", "texts")

    def __init__(
        self, kind: str, shape: Shape, numbers: Numbers, rows: Sequence[tuple[int, int]], texts: Sequence[object] = ()
    ) -> None:
        """
        Args:
            kind: the type of the numbers.
            shape: what must be equal.
            rows: those of which the largest number counts: where in `numbers` they begin and end.
            texts: what must be equal as well.
        """
        self.kind = kind
        self.shape = shape
        self.numbers = numbers
        self.rows = rows
        self.texts = texts

    def differs(self, other: Output) -> str:
        """Why this cannot be compared by its numbers; empty if it can be."""
        if self.kind != other.kind:
            return "different types"
        if self.shape != other.shape or len(self.numbers) != len(other.numbers) or self.rows != other.rows:
            return "different shapes"
        return "" if self.texts == other.texts else "texts differ"

    def measure(self, other: Output, tolerance: Tolerance) -> tuple[bool, float, bool]:
        """Whether all numbers are close, the largest difference, and whether a row has its largest number elsewhere."""
        a, b = self.numbers, other.numbers
        if not a or _are_the_same(a, b):
            return True, 0.0, False
        differences = list(map(abs, map(sub, a, b)))
        most = max(differences)
        # All in C, unless there is a NaN (which `max` may miss, but no sum does) or an infinity.
        is_plain = isfinite(sum(differences))
        if not is_plain:
            differences = [_difference(x, y) for x, y in zip(a, b, strict=True)]
            most = max(differences)
        is_close = most <= tolerance.absolute
        if not is_close and tolerance.relative > 0:
            close: Callable[[float, float], bool] = partial(
                isclose, rel_tol=tolerance.relative, abs_tol=tolerance.absolute
            )
            is_close = all(
                map(close, a, b) if is_plain else (close(x, y) or _is_same(x, y) for x, y in zip(a, b, strict=True))
            )
        place = _largest if is_plain else _largest_or_nan
        moved = any(place(a[begin:end]) != place(b[begin:end]) for begin, end in self.rows)
        return is_close, float(most), moved


def _are_the_same(a: Numbers, b: Numbers) -> bool:
    """To the bit, NaN included. False says nothing."""
    return isinstance(a, array) and isinstance(b, array) and a.tobytes() == b.tobytes()


def _is_same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)


def _difference(a: float, b: float) -> float:
    if _is_same(a, b):
        return 0.0
    difference = abs(a - b)
    return difference if isfinite(difference) else inf


def _largest(row: Numbers) -> int:
    return row.index(max(row))


def _largest_or_nan(row: Numbers) -> int:
    """The first NaN is the largest, as numpy and TensorFlow have it."""
    for place, number in enumerate(row):
        if number != number:
            return place
    return _largest(row)
