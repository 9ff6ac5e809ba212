from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.grpc import Deframer, MessagePart, frame
from meshproxy.devtools.messages import MultiInferenceRequest, PredictRequest
from meshproxy.inference import body_rewrite
from meshproxy.inference.body_rewrite import MEMO_ENTRIES
from meshproxy.inference.body_scan import DEFAULT_LIMITS, ScanLimits
from meshproxy.inference.call import Call, Chosen, ModelRef, Verb
from meshproxy.inference.surface import BodyRewriter, Operation
from meshproxy.inference.tfserving_grpc import METHODS
from meshproxy.inference.unary import write_bytes as length
from meshproxy.inference.unary import write_varint as varint
from meshproxy.refusal import Reason, Refusal
from tests.inference.spec_messages import cuts, damaged, spec_requests, task_requests, texts
from tests.thorough import tries

PREDICT = METHODS[b"/tensorflow.serving.PredictionService/Predict"]
MULTI = METHODS[b"/tensorflow.serving.PredictionService/MultiInference"]
LIMIT = 1 << 20
WHOLE = [1 << 30]


@pytest.fixture(autouse=True)
def forget() -> None:
    body_rewrite._memo.clear()


def spec(name: str = "", version: int | None = None, label: str | None = None, signature: str = "") -> bytes:
    """A model_spec with its tag."""
    out = length(1, name.encode()) if name else b""
    if version is not None:
        out += length(2, b"\x08" + varint(version % (1 << 64)))
    if label is not None:
        out += length(4, label.encode())
    return length(1, out + (length(3, signature.encode()) if signature else b""))


def task(*parts: bytes) -> bytes:
    return length(1, b"".join(parts))


TENSOR = length(2, length(1, b"x") + length(2, bytes(40)))


def authorised(asked: Operation, body: bytes, encoding: bytes | None = None) -> Call:
    """The call that the scan of the whole body finds."""
    scan = asked.scan(encoding, DEFAULT_LIMITS)  # type: ignore[misc]
    scan.feed(body, True)
    assert scan.call is not None
    return scan.call


def rewriter_of(
    asked: Operation,
    call: Call,
    version: int | None,
    label: str | None,
    limit: int,
    encoding: bytes | None = None,
    limits: ScanLimits = DEFAULT_LIMITS,
) -> BodyRewriter:
    assert asked.rewrite_body is not None
    return asked.rewrite_body(
        call, Chosen(None, None if version is None else str(version), label), limit, encoding, limits
    )


def feed(rewriter: BodyRewriter, body: bytes, steps: list[int]) -> bytes:
    out = b""
    position = turn = 0
    while position < len(body):
        step = steps[turn % len(steps)]
        out += rewriter.feed(body[position : position + step], False)
        position, turn = position + step, turn + 1
    return out + rewriter.feed(b"", True)


def rewritten(
    asked: Operation,
    body: bytes,
    steps: list[int] = WHOLE,
    *,
    version: int | None = 5,
    label: str | None = None,
    encoding: bytes | None = None,
    limit: int = LIMIT,
) -> list[bytes]:
    """The messages that go on."""
    call = authorised(asked, body, encoding)
    return unframe(feed(rewriter_of(asked, call, version, label, limit, encoding), body, steps))


def unframe(body: bytes) -> list[bytes]:
    """The messages of a body, none of them compressed."""
    deframer = Deframer()
    messages: list[bytes] = []
    for part in deframer.receive(body):
        assert isinstance(part, MessagePart)
        assert part.end
        assert not part.compressed
        messages.append(part.data)
    assert deframer.is_idle
    return messages


def refusal(rewriter: BodyRewriter, body: bytes, steps: list[int] = WHOLE) -> Refusal:
    with pytest.raises(Refusal) as refused:
        feed(rewriter, body, steps)
    return refused.value


REWRITTEN = {
    "name": (spec("m"), 5, None, spec("m", 5)),
    "version": (spec("m", 3), 5, None, spec("m", 5)),
    "version 0": (spec("m", 3), 0, None, length(1, length(1, b"m") + b"\x12\x02\x08\x00")),
    "negative version": (spec("m", 3), -1, None, spec("m", -1)),
    "largest version": (spec("m", 3), (1 << 63) - 1, None, spec("m", (1 << 63) - 1)),
    "label to version": (spec("m", label="stable"), 5, None, spec("m", 5)),
    "version to label": (spec("m", 3), None, "stable", spec("m", label="stable")),
    "to the latest": (spec("m", 3), None, None, spec("m")),
    "no signature": (spec("m") + TENSOR, 5, None, spec("m", 5) + TENSOR),
    "after the tensor": (TENSOR + spec("m") + TENSOR, 5, None, spec("m", 5) + TENSOR + TENSOR),
    "long tensor": (spec("m") + length(2, bytes(70_000)), 5, None, spec("m", 5) + length(2, bytes(70_000))),
    "long name": (spec("m" * 200) + TENSOR, 5, None, spec("m" * 200, 5) + TENSOR),
    "merged": (spec("public", 3) + spec(label="x") + spec("m"), 5, None, spec("m", 5)),
    "unknown within": (length(1, length(1, b"m") + length(9, b"x")), 5, None, spec("m", 5)),
    "unknown without": (
        spec("m") + length(9, b"x") + b"\x50\x01",
        5,
        None,
        spec("m", 5) + length(9, b"x") + b"\x50\x01",
    ),
    "field 1 in a group": (spec("m") + b"\x1b\x0a\x01x\x1c", 5, None, spec("m", 5) + b"\x1b\x0a\x01x\x1c"),
    "field 1 as a varint": (b"\x08\x05" + spec("m"), 5, None, spec("m", 5) + b"\x08\x05"),
}


@pytest.mark.parametrize("steps", [WHOLE, [1], [2], [7]])
@pytest.mark.parametrize("name", REWRITTEN)
def test_replaces_the_version_and_nothing_else(name: str, steps: list[int]) -> None:
    message, version, label, expected = REWRITTEN[name]
    assert rewritten(PREDICT, frame(message), steps, version=version, label=label) == [expected]


def test_keeps_the_signature_as_given() -> None:
    request = PredictRequest()
    request.model_spec.name = "m"
    request.model_spec.signature_name = "s"
    request.model_spec.version_label = "stable"
    request.inputs["x"].tensor_content = bytes(100)
    request.inputs["y"].float_val.extend([1.0, 2.0])
    [message] = rewritten(PREDICT, frame(request.SerializeToString()), version=0)
    request.model_spec.version.value = 0
    assert PredictRequest.FromString(message) == request


def test_replaces_the_version_in_every_task() -> None:
    request = MultiInferenceRequest()
    for signature in ("classify", "regress"):
        added = request.tasks.add(method_name="tensorflow/serving/" + signature)
        added.model_spec.name = "m"
        added.model_spec.version.value = len(request.tasks)
        added.model_spec.signature_name = signature
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(2.0)
    body = frame(request.SerializeToString())
    for added in request.tasks:
        added.model_spec.version_label = "canary"
    for steps in (WHOLE, [1], [7]):
        [message] = rewritten(MULTI, body, steps, version=None, label="canary")
        assert MultiInferenceRequest.FromString(message) == request


@pytest.mark.parametrize(
    "asked", [each for each in METHODS.values() if each.rewrite_body is not None and each is not MULTI]
)
def test_every_method_with_a_model_spec_is_rewritten(asked: Operation) -> None:
    assert rewritten(asked, frame(spec("m"))) == [spec("m", 5)]


RENAMED = {
    "latest": (spec("m") + TENSOR, Chosen("m2"), spec("m2") + TENSOR),
    "version": (spec("m", signature="s") + TENSOR, Chosen("m2", "5"), spec("m2", 5, signature="s") + TENSOR),
    "label": (TENSOR + spec("m"), Chosen("m2", None, "x"), spec("m2", label="x") + TENSOR),
    "a version is not kept": (spec("m", 3), Chosen("m2"), spec("m2")),
    "longer than a byte tells": (spec("m") + TENSOR, Chosen("m" * 200), spec("m" * 200) + TENSOR),
    "shorter": (spec("m" * 200) + TENSOR, Chosen("m"), spec("m") + TENSOR),
    "not ASCII": (spec("m"), Chosen("größe/modell"), spec("größe/modell")),
    "merged": (spec("x") + spec("m"), Chosen("m2"), spec("m2")),
}


@pytest.mark.parametrize("steps", [WHOLE, [1], [7]])
@pytest.mark.parametrize("encoding", [None, b"gzip"])
@pytest.mark.parametrize("name", RENAMED)
def test_another_name_takes_the_place_of_the_model(name: str, encoding: bytes | None, steps: list[int]) -> None:
    message, chosen, expected = RENAMED[name]
    body = frame(message)
    if encoding is not None:
        packed = gzip.compress(message)
        body = b"\1" + len(packed).to_bytes(4, "big") + packed
    assert PREDICT.rewrite_body is not None
    rewriter = PREDICT.rewrite_body(authorised(PREDICT, body, encoding), chosen, LIMIT, encoding, DEFAULT_LIMITS)
    assert unframe(feed(rewriter, body, steps)) == [expected]


def test_a_rewritten_body_may_be_rewritten_again() -> None:
    """As a fallback does with what a share has renamed."""
    body = frame(spec("m") + TENSOR)
    call = authorised(PREDICT, body)
    assert PREDICT.rewrite_body is not None
    first = PREDICT.rewrite_body(call, Chosen("m2", "5"), LIMIT, None, DEFAULT_LIMITS)
    second_call = authorised(PREDICT, frame(spec("m2", 5)))
    second = PREDICT.rewrite_body(second_call, Chosen("small"), LIMIT, None, DEFAULT_LIMITS)
    out = b"".join(second.feed(first.feed(body[at : at + 1], False), False) for at in range(len(body)))
    assert unframe(out + second.feed(first.feed(b"", True), True)) == [spec("small") + TENSOR]


def test_a_known_spec_is_replaced_from_memory() -> None:
    body = frame(spec("m") + TENSOR)
    assert rewritten(PREDICT, body) == rewritten(PREDICT, body) == [spec("m", 5) + TENSOR]
    assert rewritten(PREDICT, body, version=6) == [spec("m", 6) + TENSOR]
    assert rewritten(PREDICT, body, version=None, label="5") == [spec("m", label="5") + TENSOR]
    assert len(body_rewrite._memo) == 3
    assert rewritten(MULTI, frame(task(spec("m")))) == [task(spec("m", 5))]


def test_what_is_remembered_is_bounded() -> None:
    for i in range(MEMO_ENTRIES + 10):
        assert rewritten(PREDICT, frame(spec(f"m{i}"))) == [spec(f"m{i}", 5)]
    assert len(body_rewrite._memo) == 10


# ------------------------------------------------------------------------------------------------- as the body comes


def test_holds_until_the_spec_is_past_and_no_longer() -> None:
    body = frame(spec("m") + length(2, bytes(1 << 20)))
    rewriter = rewriter_of(PREDICT, authorised(PREDICT, body), 5, None, 100)
    head = 5 + len(spec("m"))
    assert [rewriter.feed(body[i : i + 1], False) for i in range(head + 3)] == [b""] * (head + 3)
    begun = rewriter.feed(body[head + 3 : head + 4], False)
    assert begun[5:] == spec("m", 5) + body[head : head + 4]
    assert int.from_bytes(begun[1:5], "big") == len(body) - 5 - len(spec("m")) + len(spec("m", 5))
    for i in range(head + 4, len(body), 16_384):
        assert rewriter.feed(body[i : i + 16_384], False) == body[i : i + 16_384]
    assert rewriter.feed(b"", True) == b""


@pytest.mark.parametrize("steps", [WHOLE, [1], [3]])
def test_a_run_of_occurrences_is_merged_in_any_pieces(steps: list[int]) -> None:
    body = frame(TENSOR + spec("public") + spec(signature="s") + spec("m") + TENSOR)
    assert rewritten(PREDICT, body, steps) == [spec("m", 5, signature="s") + TENSOR + TENSOR]


def test_a_model_that_is_named_again_later_is_refused() -> None:
    body = frame(spec("m") + TENSOR + spec("m"))
    assert rewritten(PREDICT, body) == [spec("m", 5) + TENSOR]
    rewriter = rewriter_of(PREDICT, authorised(PREDICT, body), 5, None, LIMIT)
    assert rewriter.feed(body[:20], False)
    assert rewriter.feed(body[20:-1], False)
    with pytest.raises(Refusal) as refused:
        rewriter.feed(body[-1:], True)
    assert refused.value.reason is Reason.MODEL_CHANGED
    assert "name the model once" in refused.value.message


def test_a_task_after_the_input_is_refused() -> None:
    body = frame(task(spec("m")) + TENSOR + task(spec("m")))
    assert rewritten(MULTI, body) == [task(spec("m", 5)) * 2 + TENSOR]
    assert (
        refusal(rewriter_of(MULTI, authorised(MULTI, body), 5, None, LIMIT), body, [1]).reason is Reason.MODEL_CHANGED
    )


@pytest.mark.parametrize("steps", [WHOLE, [1]])
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (PREDICT, spec("other")),
        (PREDICT, spec("m", 3)),
        (PREDICT, spec("m", signature="s")),
        (PREDICT, spec("m") + spec("other") + TENSOR),
        (PREDICT, TENSOR + spec("other")),
        (MULTI, task(spec("m")) + task(spec("other"))),
    ],
)
def test_what_was_not_authorised_does_not_go_on(asked: Operation, message: bytes, steps: list[int]) -> None:
    call = Call(asked.verb, (ModelRef("m", signature="serving_default"),))
    refused = refusal(rewriter_of(asked, call, 5, None, LIMIT), frame(message), steps)
    assert refused.reason is Reason.MODEL_CHANGED


@pytest.mark.parametrize("steps", [WHOLE, [1]])
def test_tasks_of_different_models_have_no_version_in_common(steps: list[int]) -> None:
    body = frame(task(spec("a")) + task(spec("b")))
    refused = refusal(rewriter_of(MULTI, authorised(MULTI, body), 5, None, LIMIT), body, steps)
    assert refused.reason is Reason.MODEL_CHANGED


@pytest.mark.parametrize("steps", [WHOLE, [1], [11]])
def test_every_message_of_a_stream_is_rewritten(steps: list[int]) -> None:
    body = frame(spec("m") + TENSOR) + frame(TENSOR + spec("m"))
    assert rewritten(PREDICT, body * 2, steps) == [spec("m", 5) + TENSOR] * 4


def test_a_call_that_was_decided_again_is_taken_up() -> None:
    rewriter = rewriter_of(PREDICT, authorised(PREDICT, frame(spec("m"))), 5, None, LIMIT)
    assert rewriter.feed(frame(spec("m")), False) == frame(spec("m", 5))
    rewriter.call = authorised(PREDICT, frame(spec("m")) + frame(spec("m", 7)))
    assert rewriter.feed(frame(spec("m", 7)), True) == frame(spec("m", 5))


def test_nothing_is_made_of_nothing() -> None:
    rewriter = rewriter_of(PREDICT, Call(Verb.PREDICT), 5, None, LIMIT)
    assert rewriter.feed(b"", False) == b""
    assert "no message" in refusal(rewriter, b"").message


# ------------------------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize("step", [100, 1000, 1 << 30])
def test_holds_no_more_than_the_limit(step: int) -> None:
    body = frame(length(2, bytes(5000)) + spec("m") + length(2, bytes(9000)))
    call = authorised(PREDICT, body)
    assert unframe(feed(rewriter_of(PREDICT, call, 5, None, 6000), body, [step]))
    rewriter = rewriter_of(PREDICT, call, 5, None, 4000)
    if step == 1 << 30:  # nothing is held of what comes and goes in one piece
        assert unframe(feed(rewriter, body, [step]))
        return
    refused = refusal(rewriter, body, [step])
    assert (refused.reason, refused.limit) == (Reason.SCAN_LIMIT, "scan_buffer_bytes")


def test_an_endless_spec_is_refused() -> None:
    body = b"\0\x7f\0\0\0" + b"\x0a" + varint(100_000) + bytes(1000)
    refused = refusal(rewriter_of(PREDICT, Call(Verb.PREDICT), 5, None, LIMIT), body, [100])
    assert (refused.reason, refused.limit) == (Reason.SCAN_LIMIT, "spec_bytes")


def test_fields_without_end_are_refused() -> None:
    refused = refusal(rewriter_of(PREDICT, Call(Verb.PREDICT), 5, None, LIMIT), frame(b"\x18\x00" * 100_000), [1000])
    assert (refused.reason, refused.limit) == (Reason.SCAN_LIMIT, "fields")


def test_refuses_a_message_that_the_server_would_not_take() -> None:
    refused = refusal(rewriter_of(PREDICT, Call(Verb.PREDICT), 5, None, LIMIT), b"\0\xff\xff\xff\xffx")
    assert (refused.reason, refused.limit) == (Reason.BODY_TOO_LARGE, "message_bytes")


# -------------------------------------------------------------------------------------------------------- compressed

COMPRESS: dict[bytes, Callable[[bytes], bytes]] = {b"gzip": gzip.compress, b"deflate": zlib.compress}


@pytest.mark.parametrize("steps", [WHOLE, [1], [9]])
@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("name", REWRITTEN)
def test_a_compressed_message_goes_on_uncompressed(name: str, encoding: bytes, steps: list[int]) -> None:
    message, version, label, expected = REWRITTEN[name]
    body = frame(COMPRESS[encoding](message), compressed=True)
    assert rewritten(PREDICT, body, steps, version=version, label=label, encoding=encoding) == [expected]


@pytest.mark.parametrize("steps", [WHOLE, [9]])
def test_a_compressed_message_is_held_under_the_limit(steps: list[int]) -> None:
    body = frame(gzip.compress(spec("m") + length(2, bytes(5000))), compressed=True)
    call = authorised(PREDICT, body, b"gzip")
    assert unframe(feed(rewriter_of(PREDICT, call, 5, None, 6000, b"gzip"), body, steps))
    refused = refusal(rewriter_of(PREDICT, call, 5, None, 5000, b"gzip"), body, steps)
    assert (refused.reason, refused.limit) == (Reason.SCAN_LIMIT, "scan_buffer_bytes")
    assert "uncompressed" in refused.message


def test_compression_has_the_limits_of_the_scan() -> None:
    body = frame(gzip.compress(spec("m") + length(2, bytes(50_000))), compressed=True)
    limits = ScanLimits(inflated_bytes=50_000)
    refused = refusal(rewriter_of(PREDICT, Call(Verb.PREDICT), 5, None, LIMIT, b"gzip", limits), body)
    assert refused.limit == "inflated_bytes"
    refused = refusal(rewriter_of(PREDICT, Call(Verb.PREDICT), 5, None, LIMIT, b"snappy"), body)
    assert refused.reason is Reason.UNSUPPORTED_ENCODING


# -------------------------------------------------------------------------------------------------- against the oracle

choices = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1).map(lambda version: (version, None)),
    st.tuples(st.none(), texts.filter(bool)),
    st.just((0, None)),
    st.just((None, None)),
)


def choose(oracle: Any, version: int | None, label: str | None) -> None:
    """What should become of a model_spec."""
    name, signature = oracle.name, oracle.signature_name
    oracle.Clear()
    oracle.name, oracle.signature_name = name, signature
    if version is not None:
        oracle.version.value = version
        oracle.version.SetInParent()
    elif label is not None:
        oracle.version_label = label


def expected_of(
    messages: dict[str, Any], asked: Operation, message: bytes, version: int | None, label: str | None
) -> Any:
    oracle = messages["SpecRequest" if asked is PREDICT else "TasksRequest"].FromString(message)
    for each in [oracle] if asked is PREDICT else oracle.tasks:
        choose(each.model_spec, version, label)
    return oracle


def check(
    messages: dict[str, Any],
    asked: Operation,
    message: bytes,
    steps: list[int],
    chosen: tuple[int | None, str | None],
) -> bool:
    """Rewrites a message in every way there is. Whether it could be read."""
    try:
        call = authorised(asked, frame(message))
    except Refusal:
        call = Call(asked.verb)
        for way in (WHOLE, steps):
            refusal(rewriter_of(asked, call, *chosen, LIMIT), frame(message), way)
        return False
    if len({ref.name for ref in call.models}) > 1:
        refused = refusal(rewriter_of(asked, call, *chosen, LIMIT), frame(message), steps)
        assert refused.reason is Reason.MODEL_CHANGED
        return True
    expected = expected_of(messages, asked, message, *chosen)
    version, label = None if chosen[0] is None else str(chosen[0]), chosen[1]
    compressed = frame(zlib.compress(message), compressed=True)
    for way, body in ((WHOLE, frame(message)), (WHOLE, frame(message)), (steps, compressed), (steps, frame(message))):
        try:
            [read] = unframe(feed(rewriter_of(asked, call, *chosen, LIMIT, b"deflate"), body, way))
        except Refusal as refused:
            # Named again, or only then, after something else, and in pieces.
            assert refused.reason is Reason.MODEL_CHANGED or refused.message == "Missing ModelSpec"  # noqa: PT017
            assert way is steps
            assert body is not compressed
            assert message.count(b"\x0a") > 1
            continue
        parsed = type(expected).FromString(read)
        assert parsed.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
        assert authorised(asked, frame(read)).models == tuple(
            dict.fromkeys(ModelRef(ref.name, version, label, ref.signature) for ref in call.models)
        )
    return True


@given(message=spec_requests, steps=cuts, chosen=choices)
@settings(max_examples=tries(300))
def test_protobuf_reads_the_same_but_for_the_version(
    messages: dict[str, Any], message: bytes, steps: list[int], chosen: tuple[int | None, str | None]
) -> None:
    check(messages, PREDICT, message, steps, chosen)


@given(message=task_requests, steps=cuts, chosen=choices)
@settings(max_examples=tries(200))
def test_protobuf_reads_the_same_tasks_but_for_the_version(
    messages: dict[str, Any], message: bytes, steps: list[int], chosen: tuple[int | None, str | None]
) -> None:
    check(messages, MULTI, message, steps, chosen)


@given(message=st.binary(max_size=60) | damaged(spec_requests), steps=cuts, chosen=choices)
@settings(max_examples=tries(200))
def test_whatever_goes_on_says_what_was_authorised(
    messages: dict[str, Any], message: bytes, steps: list[int], chosen: tuple[int | None, str | None]
) -> None:
    check(messages, PREDICT, message, steps, chosen)


@given(message=st.binary(max_size=60) | damaged(task_requests), steps=cuts, chosen=choices)
@settings(max_examples=tries(200))
def test_whatever_tasks_go_on_say_what_was_authorised(
    messages: dict[str, Any], message: bytes, steps: list[int], chosen: tuple[int | None, str | None]
) -> None:
    check(messages, MULTI, message, steps, chosen)


@given(body=st.binary(max_size=80), encoding=st.sampled_from([None, b"gzip"]), steps=cuts)
@settings(max_examples=tries(200))
def test_any_body_is_rewritten_or_refused(body: bytes, encoding: bytes | None, steps: list[int]) -> None:
    for asked in (PREDICT, MULTI):
        try:
            feed(rewriter_of(PREDICT, Call(asked.verb), 5, None, LIMIT, encoding), body, steps)
        except Refusal:
            continue
        raise AssertionError("a body went on, and nothing was authorised")
