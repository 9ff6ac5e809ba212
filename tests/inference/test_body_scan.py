"""Messages that name their model in two fields of their own; `test_tfserving_grpc` has those with a model_spec."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.grpc import Deframer, MessagePart, frame
from meshproxy.inference.body_rewrite import MessageRewriter
from meshproxy.inference.body_scan import (
    FIELD_BYTES,
    NAMED_BYTES,
    WALKED_BYTES,
    WALKED_FIELDS,
    BodyKind,
    BodyScan,
    Replaced,
    ScanLimits,
    repeats,
)
from meshproxy.inference.call import Call, Chosen, ModelRef, Verb
from meshproxy.inference.protobuf import FieldWalker, malformed
from meshproxy.inference.surface import Operation, Scan
from meshproxy.inference.surfaces import SURFACES
from meshproxy.inference.unary import read_text, write_bytes, write_text
from meshproxy.refusal import Reason, Refusal
from tests.thorough import tries

NAME, VERSION = 0x0A, 0x12


class Naming:
    """`string name = 1; string version = 2;`"""

    def __init__(self, limits: ScanLimits, walker: FieldWalker) -> None:
        self.said = {NAME: "", VERSION: ""}

    def add(self, tag: int, value: bytes) -> None:
        self.said[tag] = read_text(value, "a name")

    def models(self) -> tuple[ModelRef, ...]:
        return (ModelRef(self.said[NAME], self.said[VERSION]),) if self.said[NAME] else ()

    def finish(self) -> tuple[ModelRef, ...]:
        if not self.said[NAME]:
            raise malformed("no model is named")
        return self.models()


def replace(occurrences: Sequence[tuple[int, bytes]], chosen: Chosen) -> Replaced:
    naming = Naming(ScanLimits(), FieldWalker())
    for tag, value in occurrences:
        naming.add(tag, value)
    return naming.finish(), write_text(1, naming.said[NAME]) + write_text(2, chosen.version or "")


KIND = BodyKind(Verb.PREDICT, Naming, replace, tags=(NAME, VERSION))
OTHER = write_text(3, "other")
FIELDS = [write_text(1, "a"), write_text(1, "b"), write_text(2, "v1"), write_text(2, "v2"), OTHER, b"\x20\x01"]
bodies = st.lists(st.sampled_from(FIELDS), max_size=6)
cuts = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def pieces(body: bytes, steps: list[int]) -> list[bytes]:
    found: list[bytes] = []
    while body:
        step = steps[len(found) % len(steps)]
        found.append(body[:step])
        body = body[step:]
    return found


def scanned(body: bytes, steps: list[int]) -> Call | None:
    scan = BodyScan(KIND)
    try:
        for piece in pieces(body, steps):
            scan.feed(piece, False)
        scan.feed(b"", True)
    except Refusal as refused:
        assert refused.reason is Reason.MALFORMED_MESSAGE  # noqa: PT017
        return None
    return scan.call


def expected(fields: list[bytes]) -> Call | None:
    said = {NAME: "", VERSION: ""}
    for field in fields:
        if field[0] in said:
            said[field[0]] = field[2:].decode()
    return Call(Verb.PREDICT, (ModelRef(said[NAME], said[VERSION]),)) if said[NAME] else None


@given(fields=bodies, steps=cuts)
@settings(max_examples=tries(300))
def test_the_last_of_each_field_counts(fields: list[bytes], steps: list[int]) -> None:
    body = frame(b"".join(fields))
    assert scanned(body, steps) == expected(fields)
    assert scanned(body, [1 << 20]) == expected(fields)


@given(fields=bodies, steps=cuts)
@settings(max_examples=tries(300))
def test_another_version_takes_the_place_of_both(fields: list[bytes], steps: list[int]) -> None:
    call = expected(fields)
    if call is None:
        return
    rewriter = MessageRewriter(KIND, call, Chosen(version="v9"), 1000)
    out = b""
    try:
        for piece in pieces(frame(b"".join(fields)), steps):
            out += rewriter.feed(piece, False)
        out += rewriter.feed(b"", True)
    except Refusal as refused:
        # A field that names the model came after others, and those had been forwarded; or it was the name.
        assert refused.reason is Reason.MODEL_CHANGED or "no model is named" in refused.message  # noqa: PT017
        first = next(i for i, field in enumerate(fields) if field[0] in (NAME, VERSION))
        assert any(field[0] not in (NAME, VERSION) for field in fields[first:-1])
        return
    [part] = Deframer().receive(out)
    assert isinstance(part, MessagePart)
    rest = b"".join(field for field in fields if field[0] not in (NAME, VERSION))
    assert part.data == write_text(1, call.models[0].name) + write_text(2, "v9") + rest


def test_a_change_is_returned_with_the_bytes_that_make_it() -> None:
    scan = BodyScan(KIND)
    body = frame(FIELDS[0] + FIELDS[2] + OTHER + FIELDS[3])
    assert scan.feed(body[:-1], False) == Call(Verb.PREDICT, (ModelRef("a", "v1"),))
    assert scan.feed(body[-1:], True) == Call(Verb.PREDICT, (ModelRef("a", "v2"),))


# ------------------------------------------------------------------------------------------------ work in proportion

TASKS = SURFACES.find_grpc(b"/tensorflow.serving.PredictionService/MultiInference")
PREDICT = SURFACES.find_grpc(b"/tensorflow.serving.PredictionService/Predict")


def predicts(name: str) -> bytes:
    return frame(write_bytes(1, write_text(1, name)))


def scan_of(operation: Operation, encoding: bytes | None = None, **limits: int) -> Scan:
    assert operation.scan is not None
    return operation.scan(encoding, ScanLimits(**limits))


def refused(scan: Scan, pieces: Iterable[bytes]) -> tuple[int, Refusal]:
    """After how many pieces, and why."""
    for number, piece in enumerate(pieces):
        try:
            scan.feed(piece, False)
        except Refusal as refusal:
            return number, refusal
    raise AssertionError("not refused")


def read_to_its_end(scan: Scan) -> Call | None:
    """The last call that it says."""
    call = None
    while scan.is_behind:
        call = scan.read_on() or call
    return call


def test_what_follows_a_field_that_was_passed_over_is_read() -> None:
    """A piece within a field of no interest is not looked at, and counts all the same."""
    body = frame(write_text(1, "a") + write_text(3, "x" * 100_000) + write_text(1, "b"))
    scan = BodyScan(KIND)
    calls = [scan.feed(body[at : at + 1_000], False) for at in range(0, len(body), 1_000)]
    assert [at for at, call in enumerate(calls) if call is not None] == [0, 100]
    assert scan.feed(frame(write_text(1, "c")), True) is not None
    assert scan.call is not None
    assert [model.name for model in scan.call.models] == ["b", "c"]


@pytest.mark.parametrize("left", [1, 500, 99_000])
def test_a_body_that_ends_within_a_field_that_is_passed_over(left: int) -> None:
    body = frame(write_text(1, "a") + write_text(3, "x" * 100_000))
    scan = BodyScan(KIND)
    scan.feed(body[:1_000], False)
    with pytest.raises(Refusal, match="ends within a message"):
        scan.feed(body[1_000:-left], True)


def test_tasks_that_come_one_by_one_are_not_all_decided_on_again_and_again() -> None:
    tasks = [write_bytes(1, write_bytes(1, write_text(1, f"m{number}"))) for number in range(1_000)]
    size = len(b"".join(tasks))
    count, refusal = refused(scan_of(TASKS), [b"\0" + size.to_bytes(4, "big"), *tasks])
    assert (refusal.reason, refusal.limit, count) == (Reason.SCAN_LIMIT, "decided_models", 64)
    scan = scan_of(TASKS)
    assert scan.feed(frame(b"".join(tasks)), True) is None
    slices = 1
    while scan.is_behind:
        together = scan.read_on()
        slices += 1
    assert slices >= sum(len(task) - 2 + FIELD_BYTES for task in tasks) / NAMED_BYTES
    assert together is not None
    assert len(together.models) == 1_000


def test_a_last_byte_does_not_cause_what_those_before_it_saved() -> None:
    """Many bodies may get theirs in one read."""
    body = frame(write_bytes(1, write_text(1, "m" * 100) + b"\x28\x01" * 500))
    scan = scan_of(PREDICT)
    assert scan.feed(body[:-1], False) is None
    assert not scan.is_behind
    assert scan.feed(body[-1:], True) is None
    assert scan.is_behind
    call = scan.read_on()
    assert call is not None
    assert not scan.is_behind


def test_all_messages_of_a_body_have_so_many_fields_together() -> None:
    assert scan_of(PREDICT).feed(predicts("m") * 4, True) is not None
    scan = scan_of(PREDICT)
    scan.feed((predicts("m") + frame(SPEC + write_bytes(2, bytes(1_000)))) * 20, True)
    assert read_to_its_end(scan) is not None
    scan = scan_of(PREDICT)
    scan.feed(predicts("m") * 1_000_000, True)
    with pytest.raises(Refusal) as raised:
        read_to_its_end(scan)
    assert (raised.value.reason, raised.value.limit) == (Reason.SCAN_LIMIT, "fields")
    tiny = frame(gzip.compress(write_bytes(1, write_text(1, "m")) + b"\x18\x00" * 5_000), compressed=True)
    _, refusal = refused(scan_of(PREDICT, b"gzip"), [tiny] * 10)
    assert refusal.limit == "fields"


def test_many_small_fields_are_walked_over_in_slices() -> None:
    """Wherever among them the model is named."""
    for fields in (b"\x18\x00" * 10_000, b"\x18\x80\x80\x00" * 10_000, b"\x1a\x00" * 10_000):
        for message in (SPEC + fields, fields + SPEC):
            scan = scan_of(PREDICT)
            named = [scan.feed(frame(message), True)]
            while scan.is_behind:
                named.append(scan.read_on())
            assert 10_000 / (WALKED_FIELDS + WALKED_BYTES / 2) <= len(named) <= 10_000 / WALKED_FIELDS + 2
            assert [call for call in named if call is not None] == [scan.call]


def test_messages_that_name_nothing_new_make_no_call() -> None:
    scan = scan_of(PREDICT)
    messages = [frame(write_bytes(1, write_text(1, f"m{number}")) + write_bytes(2, bytes(500))) for number in range(20)]
    assert scan.feed(b"".join(messages), False) is None, "the first slice of many messages"
    known = read_to_its_end(scan)
    assert known is not None
    assert len(known.models) == 20
    assert [scan.feed(each, False) for each in messages] == [None] * 20
    assert [scan.feed(messages[7][:9], False), scan.feed(messages[7][9:], False)] == [None, None]
    more = scan.feed(predicts("new"), False)
    assert more is not None
    assert more.models == (*known.models, ModelRef("new", signature="serving_default"))


def test_a_model_that_a_message_names_no_more_leaves_the_call() -> None:
    scan = scan_of(PREDICT)
    scan.feed(predicts("a"), False)
    spec = [write_bytes(1, write_text(1, name)) for name in ("b", "a")]
    began = scan.feed(b"\0" + len(b"".join(spec)).to_bytes(4, "big") + spec[0], False)
    assert began is not None
    assert [model.name for model in began.models] == ["a", "b"]
    ended = scan.feed(spec[1], True)
    assert ended is not None
    assert [model.name for model in ended.models] == ["a"]


# ----------------------------------------------------------------------------------------- a compressed message

SPEC = write_bytes(1, write_text(1, "m"))
ZEROS = write_bytes(2, bytes(8 << 20))


def compressed(message: bytes) -> bytes:
    return frame(gzip.compress(message), compressed=True)


def test_it_is_read_in_slices() -> None:
    scan = scan_of(PREDICT, b"gzip", unnamed_bytes=1 << 30)
    found = [scan.feed(compressed(ZEROS + SPEC), True)]
    while scan.is_behind:
        found.append(scan.read_on())
    assert len(found) == 33
    assert found[:32] == [None] * 32
    assert found[32] == scan.call
    assert scan.read_on() is None


def test_one_that_names_its_model_is_authorised_before_the_rest_is_inflated() -> None:
    scan = scan_of(PREDICT, b"gzip")
    call = scan.feed(compressed(SPEC + ZEROS), True)
    assert call is not None
    assert scan.is_behind
    slices = 0
    while scan.is_behind:
        assert scan.read_on() is None
        slices += 1
    assert slices == 33


def test_a_small_one_is_read_at_once() -> None:
    scan = scan_of(PREDICT, b"gzip")
    assert scan.feed(compressed(SPEC + write_bytes(2, bytes(30_000))), True) is not None
    assert not scan.is_behind


def test_it_names_its_model_soon() -> None:
    scan = scan_of(PREDICT, b"gzip", unnamed_bytes=4 << 20)
    scan.feed(compressed(ZEROS + SPEC), True)
    for _ in range(15):
        scan.read_on()
    with pytest.raises(Refusal) as raised:
        scan.read_on()
    assert (raised.value.reason, raised.value.limit) == (Reason.SCAN_LIMIT, "scan_buffer_bytes")


@given(st.binary(max_size=40), st.booleans(), st.integers(0, 60), st.integers(0, 255))
def test_a_body_that_repeats_another_is_read_alike(rest: bytes, changes: bool, at: int, octet: int) -> None:
    """Whatever follows: if it repeats what a scan has read at once, another scan reads the same call in it."""
    assert PREDICT.scan is not None
    scan = PREDICT.scan(None, ScanLimits())
    assert isinstance(scan, BodyScan)
    first = b"\0\0\0\0\x09" + b"\x0a\x03\x0a\x01m" + b"\x12\x02ab"
    call = scan.feed(first, True)
    field = scan.first_field(first)
    assert field is not None
    assert field == first[5:10]
    assert repeats(first, len(first), field, 10)
    body = b"\x0a\x03\x0a\x01m" + rest
    data = b"\0" + len(body).to_bytes(4, "big") + body
    if changes:
        data = data[:at] + bytes((octet,)) + data[at + 1 :]
    if repeats(data, len(data), field, 10):
        assert PREDICT.scan(None, ScanLimits()).feed(data, True) == call
