"""Messages that name their model in two fields of their own; `test_tfserving_grpc` has those with a model_spec."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.grpc import Deframer, MessagePart, frame
from meshproxy.inference.body_rewrite import MessageRewriter
from meshproxy.inference.body_scan import BodyKind, BodyScan, Replaced, ScanLimits
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.inference.protobuf import malformed
from meshproxy.inference.unary import read_text, write_text
from meshproxy.refusal import Reason, Refusal

NAME, VERSION = 0x0A, 0x12


class Naming:
    """`string name = 1; string version = 2;`"""

    def __init__(self, limits: ScanLimits) -> None:
        self.said = {NAME: "", VERSION: ""}

    def add(self, tag: int, value: bytes) -> None:
        self.said[tag] = read_text(value, "a name")

    def models(self) -> tuple[ModelRef, ...]:
        return (ModelRef(self.said[NAME], self.said[VERSION]),) if self.said[NAME] else ()

    def finish(self) -> tuple[ModelRef, ...]:
        if not self.said[NAME]:
            raise malformed("no model is named")
        return self.models()


def replace(occurrences: Sequence[tuple[int, bytes]], version: str | None, label: str | None) -> Replaced:
    naming = Naming(ScanLimits())
    for tag, value in occurrences:
        naming.add(tag, value)
    return naming.finish(), write_text(1, naming.said[NAME]) + write_text(2, version or "")


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
@settings(max_examples=300)
def test_the_last_of_each_field_counts(fields: list[bytes], steps: list[int]) -> None:
    body = frame(b"".join(fields))
    assert scanned(body, steps) == expected(fields)
    assert scanned(body, [1 << 20]) == expected(fields)


@given(fields=bodies, steps=cuts)
@settings(max_examples=300)
def test_another_version_takes_the_place_of_both(fields: list[bytes], steps: list[int]) -> None:
    call = expected(fields)
    if call is None:
        return
    rewriter = MessageRewriter(KIND, call, "v9", None, 1000)
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
