"""What one arm of a rollout did in one window.

A sidecar fills one for each arm, the control plane adds those of all sidecars: every member is a count, so the sum of
windows is the window of the sum. Both arms of a comparison have the same minutes. Small on the wire: counts that are
zero are left out, and histograms have no empty buckets.

What counts as a call of an arm is decided where it is filled: one that the arm's server answered or failed to answer.
Not those that a sidecar refused itself, and not those that the caller gave up.
"""

from __future__ import annotations

from enum import Enum
from math import frexp, log

import msgspec

from meshproxy.refusal import GrpcStatus

GROWTH = 1.02
"""From one bucket of a latency histogram to the next: a quantile is right within 2 %."""
_STEPS = 1.0 / log(GROWTH)
SHORTEST = 1e-6
"""Seconds (or bytes): what is below is in bucket 0."""
LAST_BUCKET = 2_999
"""What is above belongs to it as well: 25 decades."""
CLASS_BINS = 64
"""Classes are counted modulo this, in both arms alike: the first 64 that an arm meets would be others than those of the
other arm."""

_EXPONENTS = 24
"""Scores have their own bins from 2^-24 to 2^24."""
_PARTS = 16
"""Bins of an octave: a score is known within 3 to 6 %."""
LAST_SCORE = 2 * _EXPONENTS * _PARTS
"""Of the largest scores; those below zero have the same numbers, negative."""


def bucket(value: float) -> int:
    """The bucket of a duration (seconds) or size (bytes): `GROWTH ** b` microseconds; 0.1 us."""
    return int(min(log(value / SHORTEST) * _STEPS, LAST_BUCKET)) if value > SHORTEST else 0


def bucket_value(number: float) -> float:
    """The middle of a bucket."""
    return float(SHORTEST * GROWTH ** (number + 0.5))


def score_bin(score: float) -> int:
    """The bin of a finite number of an output: by sign, exponent and the first four bits; 0 for what is nearly 0."""
    fraction, exponent = frexp(abs(score))
    if exponent <= -_EXPONENTS or not fraction:
        return 0
    number = (exponent + _EXPONENTS) * _PARTS + int((fraction - 0.5) * 2 * _PARTS)
    number = min(number, LAST_SCORE)
    return number if score > 0 else -number


def class_bin(index: int) -> int:
    """The bin of a class: the index of a row's largest number."""
    return index % CLASS_BINS


class Blame(Enum):
    """Whose failure it is."""

    ARM = "arm"
    """The version's, or its server's."""
    INPUT = "input"
    """The arm did not take the input: the caller's fault, unless the other arm takes the same inputs."""
    CALLER = "caller"


_INPUT = {GrpcStatus.INVALID_ARGUMENT, GrpcStatus.FAILED_PRECONDITION, GrpcStatus.OUT_OF_RANGE}
_CALLER = {GrpcStatus.CANCELLED, GrpcStatus.PERMISSION_DENIED, GrpcStatus.UNAUTHENTICATED}
BROKEN = "broken"
"""The kind of a call that has no status: the connection failed, was reset or timed out."""


def grpc_kind(status: int) -> str:
    """The kind of a call that ended with this gRPC status, other than 0."""
    return f"grpc {status}"


def rest_kind(status: int) -> str:
    """The kind of a call that was answered with this HTTP status, 400 or above. A gRPC failure has HTTP status 200."""
    return f"http {status}"


def blame(kind: str) -> Blame:
    """Whose failure a kind is. NOT_FOUND and 404 are the arm's: the sidecar chose the version that is missing, and
    RESOURCE_EXHAUSTED is: TensorFlow says it when a device has no memory left. What is unknown is the arm's."""
    surface, _, number = kind.partition(" ")
    if surface == "grpc" and number.isdigit():
        if int(number) in _INPUT:
            return Blame.INPUT
        return Blame.CALLER if int(number) in _CALLER else Blame.ARM
    if surface == "http" and number.isdigit() and 400 <= int(number) < 500 and number not in ("404", "408", "429"):
        return Blame.CALLER if number in ("401", "403") else Blame.INPUT
    return Blame.ARM


class ArmWindow(msgspec.Struct, omit_defaults=True):
    """Counts of one arm and one window; all zero at first."""

    calls: int = 0
    """Calls that ended, good or bad, without those of the warm-up."""
    failures: dict[str, int] = {}
    """By `grpc_kind`, `rest_kind` or `BROKEN`."""
    latency: dict[int, int] = {}
    """Successful calls by `bucket` of their seconds, from the request, written to the arm, to the response's head."""
    examples: int = 0
    """Examples of the successful calls whose number of them is known."""
    latency_per_example: dict[int, int] = {}
    """Those calls, by `bucket` of seconds per example."""
    answers: int = 0
    """Successful calls whose outputs were read: a sample."""
    nan_answers: int = 0
    """Of these, with NaN or an infinity."""
    values: int = 0
    """Numbers in them."""
    nan_values: int = 0
    classes: dict[int, int] = {}
    """Answers by `class_bin` of one row. One row for each answer: rows of a batch are alike."""
    scores: dict[int, int] = {}
    """Answers by `score_bin` of one number: the largest of that row, or a regression's."""
    sizes: dict[int, int] = {}
    """Answers by `bucket` of their bytes."""
    shadows: int = 0
    """Copies that the arm answered beside the stable version and that were compared; of the candidate only."""
    disagreements: int = 0
    """Of these, those that differ by more than the tolerance."""

    def __iadd__(self, other: ArmWindow) -> ArmWindow:
        """Adds the counts of another window."""
        self.calls += other.calls
        self.examples += other.examples
        self.answers += other.answers
        self.nan_answers += other.nan_answers
        self.values += other.values
        self.nan_values += other.nan_values
        self.shadows += other.shadows
        self.disagreements += other.disagreements
        _add(self.failures, other.failures)
        _add(self.latency, other.latency)
        _add(self.latency_per_example, other.latency_per_example)
        _add(self.classes, other.classes)
        _add(self.scores, other.scores)
        _add(self.sizes, other.sizes)
        return self

    def __add__(self, other: ArmWindow) -> ArmWindow:
        total = ArmWindow()
        total += self
        total += other
        return total

    def failed(self, whose: Blame) -> int:
        """Failures that are of this blame."""
        return sum(count for kind, count in self.failures.items() if blame(kind) is whose)


def _add(counts: dict[int, int] | dict[str, int], others: dict[int, int] | dict[str, int]) -> None:
    into: dict[int | str, int] = counts  # type: ignore[assignment]  # both have the same keys
    for key, count in others.items():
        into[key] = into.get(key, 0) + count
