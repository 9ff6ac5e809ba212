from __future__ import annotations

import gzip
import re
import zlib
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.grpc import frame
from meshproxy.inference.body_scan import DEFAULT_LIMITS, MEMO_ENTRIES, BodyKind, BodyScan, ScanLimits
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.inference.protobuf import FREE_FIELDS, REPEATED_FIELDS, FieldWalker
from meshproxy.inference.surface import Operation
from meshproxy.inference.tfserving_grpc import METHODS, client_id
from meshproxy.inference.unary import write_bytes as length
from meshproxy.inference.unary import write_varint as varint
from meshproxy.refusal import Reason, Refusal
from tests.inference.spec_messages import cuts, damaged, others, spec_requests, task_requests, texts, unknown
from tests.thorough import tries

# ------------------------------------------------------------------------------------------------------------ wire


def spec(name: str = "", version: int | None = None, label: str | None = None, signature: str = "") -> bytes:
    """What stands inside a model_spec."""
    out = length(1, name.encode()) if name else b""
    if version is not None:
        out += length(2, b"\x08" + varint(version % (1 << 64)))
    if label is not None:
        out += length(4, label.encode())
    return out + (length(3, signature.encode()) if signature else b"")


def predict(*specs: bytes, inputs: bytes = b"") -> bytes:
    return b"".join(length(1, each) for each in specs) + inputs


TENSOR = length(2, length(1, b"x") + length(2, bytes(40)))
PREDICTION = b"/tensorflow.serving.PredictionService/"
MODEL = b"/tensorflow.serving.ModelService/"
PREDICT = METHODS[PREDICTION + b"Predict"]
MULTI = METHODS[PREDICTION + b"MultiInference"]
RELOAD = METHODS[MODEL + b"HandleReloadConfigRequest"]


def kind(asked: Operation) -> BodyKind:
    found: BodyKind = asked.scan.args[0]  # type: ignore[union-attr]
    return found


@pytest.fixture(autouse=True)
def forget() -> None:
    for each in METHODS.values():
        kind(each).memo.clear()


def calls(
    asked: Operation,
    body: bytes,
    step: int = 1 << 30,
    *,
    encoding: bytes | None = None,
    limits: ScanLimits | None = None,
    steps: list[int] | None = None,
) -> list[Call]:
    """Every call that the scan of a body returns while the body comes in pieces, with an end of its own."""
    scan = BodyScan(kind(asked), encoding, limits or DEFAULT_LIMITS)
    steps = steps or [step]
    returned: list[Call] = []
    position = turn = 0
    while position < len(body):
        step = steps[turn % len(steps)]
        call = scan.feed(body[position : position + step], False)
        assert (scan.call is not None) is (call is not None or bool(returned))
        returned += [call] if call is not None else []
        while scan.is_behind:
            call = scan.read_on()
            returned += [call] if call is not None else []
        position, turn = position + step, turn + 1
    call = scan.feed(b"", True)
    returned += [call] if call is not None else []
    assert scan.call == returned[-1]
    return returned


def refusal(asked: Operation, body: bytes, step: int = 1 << 30, **options: Any) -> Refusal:
    with pytest.raises(Refusal) as refused:
        calls(asked, body, step, **options)
    return refused.value


def predicts(*refs: ModelRef) -> Call:
    return Call(Verb.PREDICT, refs)


def ref(
    name: str, version: int | None = None, label: str | None = None, signature: str = "serving_default"
) -> ModelRef:
    return ModelRef(name, None if version is None else str(version), label, signature)


STEPS = [1, 2, 7, 1 << 30]

# ------------------------------------------------------------------------------------------------------- one model

READ = {
    "name": (predict(spec("m")), ref("m")),
    "version": (predict(spec("m", version=3)), ref("m", version=3)),
    "version 0": (predict(length(1, b"m") + length(2, b"")), ref("m", version=0)),
    "negative version": (predict(spec("m", version=-1)), ref("m", version=-1)),
    "largest version": (predict(spec("m", version=(1 << 63) - 1)), ref("m", version=(1 << 63) - 1)),
    "label": (predict(spec("m", label="stable")), ref("m", label="stable")),
    "empty label": (predict(spec("m", label="")), ref("m", label="")),
    "signature": (predict(spec("m", signature="s")), ref("m", signature="s")),
    "everything": (predict(spec("m", version=3, signature="s"), inputs=TENSOR), ref("m", version=3, signature="s")),
    "after the tensor": (TENSOR + predict(spec("m")), ref("m")),
    "between tensors": (TENSOR + predict(spec("m")) + TENSOR, ref("m")),
    "long tensor": (predict(spec("m"), inputs=length(2, bytes(70_000))), ref("m")),
    "long name": (predict(spec("m" * 200), inputs=TENSOR), ref("m" * 200)),
    "unicode": (predict(spec("größe")), ref("größe")),
    "unknown fields": (predict(spec("m") + length(9, b"x") + b"\x50\x01") + length(9, b"x") + b"\x50\x01", ref("m")),
    # merging: https://protobuf.dev/programming-guides/encoding/#last-one-wins
    "last name wins": (predict(spec("public"), spec("secret")), ref("secret")),
    "last name wins around a tensor": (predict(spec("public")) + TENSOR + predict(spec("secret")), ref("secret")),
    "last name wins within": (predict(spec("public") + spec("secret")), ref("secret")),
    "empty name wins over nothing": (predict(spec("m"), spec(version=3)), ref("m", version=3)),
    "parts are merged": (predict(spec(version=3), spec(signature="s"), spec("m")), ref("m", version=3, signature="s")),
    "empty occurrence": (predict(spec("m"), b""), ref("m")),
    "version then label": (predict(spec("m", version=3), spec(label="stable")), ref("m", label="stable")),
    "label then version": (predict(spec("m", label="stable"), spec(version=3)), ref("m", version=3)),
    "a version after none": (predict(length(1, b"m") + length(2, b"") + length(2, b"\x08\x03")), ref("m", version=3)),
    "a label between": (predict(spec("m", version=3, label="x") + length(2, b"\x08\x04")), ref("m", version=4)),
    "last value wins": (predict(length(1, b"m") + length(2, b"\x08\x01\x08\x02")), ref("m", version=2)),
    # a known field with another wire type is an unknown one
    "name as a varint": (predict(spec("m") + b"\x08\x05"), ref("m")),
    "version as a varint": (predict(spec("m") + b"\x10\x05"), ref("m")),
    "value as fixed64": (predict(length(1, b"m") + length(2, b"\x09" + bytes(8))), ref("m", version=0)),
    "value as bytes": (predict(length(1, b"m") + length(2, length(1, b"\x05"))), ref("m", version=0)),
    "model_spec as a varint": (predict(spec("m")) + b"\x08\x05", ref("m")),
    "model_spec as a group": (predict(spec("m")) + b"\x0b" + spec("secret") + b"\x0c", ref("m")),
    "name in a group": (predict(spec("m") + b"\x4b" + spec("secret") + b"\x4c"), ref("m")),
    "padded value": (predict(length(1, b"m") + length(2, b"\x08\x83\x00")), ref("m", version=3)),
    "value of nine bytes": (
        predict(length(1, b"m") + length(2, b"\x08\x83" + b"\x80" * 7 + b"\x00")),
        ref("m", version=3),
    ),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", READ)
def test_reads_the_model_as_protobuf_does(messages: dict[str, Any], name: str, step: int) -> None:
    message, expected = READ[name]
    assert calls(PREDICT, frame(message), step)[-1] == predicts(expected)
    assert spec_of(messages["SpecRequest"].FromString(message).model_spec) == expected


def spec_of(oracle: Any) -> ModelRef:
    """The same, in protobuf's own reading."""
    choice = oracle.WhichOneof("choice")
    return ModelRef(
        oracle.name,
        str(oracle.version.value) if choice == "version" else None,
        oracle.version_label if choice == "version_label" else None,
        oracle.signature_name or "serving_default",
    )


REFUSED = {
    # threats, section 0: C++ and upb read "secret", pure Python "public"
    "padded tag": (predict(spec("public")) + b"\x8a\x80\x80\x80\x00\x08\x0a\x06secret", "padded"),
    "tag above 32 bits": (predict(spec("public")) + b"\x8a\x80\x80\x80\x10\x08\x0a\x06secret", "too large"),
    "padded tag alone": (b"\x8a\x80\x80\x80\x00\x08\x0a\x06secret", "padded"),
    "padded tag within": (predict(spec("public") + b"\x8a\x00\x06secret"), "padded"),
    "padded length": (b"\x0a\x83\x00\x0a\x01m", "padded"),
    "padded length within": (predict(b"\x0a\x81\x00m"), "padded"),
    "padded length in a version": (predict(length(1, b"m") + b"\x12\x82\x00\x08\x01"), "padded"),
    "field number 0 within": (predict(spec("m") + b"\x02\x00"), "field number 0"),
    "value of 65 bits": (predict(length(1, b"m") + length(2, b"\x08" + b"\xff" * 9 + b"\x02")), "64 bits"),
    "value of eleven bytes": (predict(length(1, b"m") + length(2, b"\x08" + b"\x80" * 10 + b"\x00")), "64 bits"),
    # C++ reads 3 and gogo/protobuf 0; behind a label C++ reads 0 and protobuf-java 3
    "version again without a number": (predict(spec("m", version=3) + length(2, b"")), "without its number"),
    "the same in another part": (predict(spec("m", version=3), length(2, length(9, b"x"))), "without its number"),
    "the same behind a label": (predict(spec("m", version=3, label="x") + length(2, b"")), "without its number"),
    "the same behind none": (predict(spec("m") + length(2, b"") * 2), "without its number"),
    # protobuf-java reads 3 - 2^63
    "value padded to ten bytes": (predict(length(1, b"m") + length(2, b"\x08\x83" + b"\x80" * 8 + b"\x00")), "padded"),
    "name is not UTF-8": (predict(length(1, b"\xff")), "UTF-8"),
    "name that is overwritten is not UTF-8": (predict(length(1, b"\xff"), spec("m")), "UTF-8"),
    "label is not UTF-8": (predict(spec("m") + length(4, b"\xc0\x80")), "UTF-8"),
    "signature is not UTF-8": (predict(spec("m") + length(3, b"\xed\xa0\x80")), "UTF-8"),
    "name with NUL": (predict(spec("public\0secret")), "control"),
    "label with newline": (predict(spec("m", label="a\nb")), "control"),
    "signature with escape": (predict(spec("m", signature="\x1b[2J")), "control"),
    "name too long": (predict(spec("m" * 257)), "longer"),
    "cut short within": (predict(b"\x0a\x05m"), "longer"),
    "cut short in a tag within": (predict(spec("m") + b"\x80"), "cut short"),
    "open group within": (predict(spec("m") + b"\x4b"), "cut short"),
    "open group in a version": (predict(spec("m") + length(2, b"\x4b")), "cut short"),
    "cut short": (predict(spec("m")) + b"\x12\x05abcd", "longer"),
    "no model_spec": (TENSOR, "Missing ModelSpec"),
    "nothing": (b"", "Missing ModelSpec"),
    "empty model_spec": (predict(b""), "Missing ModelSpec"),
    "no name": (predict(spec(version=3)), "Missing ModelSpec"),
    "name emptied": (predict(spec("m"), length(1, b"")), "Missing ModelSpec"),
    "model_spec within a tensor only": (length(2, predict(spec("m"))), "Missing ModelSpec"),
    "model_spec in a group only": (b"\x1b" + predict(spec("m")) + b"\x1c", "Missing ModelSpec"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_cannot_be_read_for_certain(name: str, step: int) -> None:
    message, why = REFUSED[name]
    refused = refusal(PREDICT, frame(message), step)
    assert refused.reason is Reason.MALFORMED_MESSAGE
    assert why in refused.message


@pytest.mark.parametrize("path", [path for path, each in METHODS.items() if kind(each).naming is kind(PREDICT).naming])
def test_every_method_with_a_model_spec_reads_it(path: bytes) -> None:
    asked = METHODS[path]
    assert calls(asked, frame(predict(spec("m", version=3)))) == [Call(asked.verb, (ref("m", version=3),))]


# ------------------------------------------------------------------------------------------------- as the body comes


def test_tells_the_call_before_the_tensor_has_come() -> None:
    body = frame(predict(spec("m"), inputs=length(2, bytes(1 << 24))))
    head, rest = body[:30], body[30:]
    scan = BodyScan(kind(PREDICT))
    known = [scan.feed(head[i : i + 1], False) for i in range(len(head))]
    assert [call for call in known if call] == [predicts(ref("m"))]
    assert known.index(predicts(ref("m"))) == 5 + len(predict(spec("m"))) - 1
    for i in range(0, len(rest), 16_384):
        assert scan.feed(rest[i : i + 16_384], i + 16_384 >= len(rest)) is None


def test_holds_nothing_of_a_tensor() -> None:
    scan = BodyScan(kind(PREDICT))
    scan.feed(frame(predict(spec("m"), inputs=length(2, bytes(1 << 20))))[:100], False)
    assert scan._slow is not None
    assert scan._slow._message is not None
    scanner = scan._slow._message._scanner
    for _ in range(30):
        scan.feed(bytes(16_384), False)
        assert len(scanner._held) + len(scanner._carry) == 0


def test_tells_a_change_with_the_bytes_that_make_it() -> None:
    body = frame(predict(spec("public"), inputs=TENSOR) + predict(spec("secret")))
    scan = BodyScan(kind(PREDICT))
    assert scan.feed(body[:20], False) == predicts(ref("public"))
    assert scan.feed(body[20:-1], False) is None
    assert scan.feed(body[-1:], True) == predicts(ref("secret"))


def test_a_second_model_spec_that_changes_nothing_is_no_news() -> None:
    assert calls(PREDICT, frame(predict(spec("m"), spec("m"))), 1) == [predicts(ref("m"))]


@pytest.mark.parametrize("again", [length(1, b"m"), length(2, b"\x08\x07"), length(3, b"s"), length(4, b"stable")])
def test_what_comes_again_in_a_spec_is_bounded(again: bytes) -> None:
    """The last one counts, but each has to be read."""
    most = FREE_FIELDS // REPEATED_FIELDS
    assert calls(PREDICT, frame(predict(spec("m") + again * (most - 4))))
    found = refusal(PREDICT, frame(predict(spec("m") + again * 300)))
    assert (found.reason, found.limit) == (Reason.SCAN_LIMIT, "fields")


def test_the_end_may_come_with_the_last_bytes() -> None:
    body = frame(predict(spec("m"), inputs=TENSOR))
    assert BodyScan(kind(PREDICT)).feed(body, True) == predicts(ref("m"))
    scan = BodyScan(kind(PREDICT))
    assert scan.feed(b"", False) is None
    assert scan.feed(body[:8], False) is None
    assert scan.feed(body[8:], True) == predicts(ref("m"))
    assert scan.call is not None


def test_equal_calls_are_one_object() -> None:
    body = frame(predict(spec("m"), inputs=TENSOR))
    [first] = calls(PREDICT, body)
    [again] = calls(PREDICT, body)
    [in_pieces] = calls(PREDICT, body, 1)
    [elsewhere] = calls(PREDICT, frame(TENSOR + predict(spec("m"))))
    assert first is again is in_pieces is elsewhere


def test_what_is_remembered_is_bounded() -> None:
    for i in range(MEMO_ENTRIES + 10):
        assert calls(PREDICT, frame(predict(spec(f"m{i}")))) == [predicts(ref(f"m{i}"))]
    assert len(kind(PREDICT).memo) == 10


def test_calls_with_many_models_are_not_remembered() -> None:
    few, many = (frame(reload(config(*"abcdefghijk"[:count]))) for count in (4, 5))
    assert calls(RELOAD, few)[0] is calls(RELOAD, few)[0]
    assert calls(RELOAD, many) == calls(RELOAD, many, 1)[-1:]
    assert calls(RELOAD, many)[0] is not calls(RELOAD, many)[0]
    assert [len(call.models) for call in kind(RELOAD).memo.values()] == [4]


def test_what_is_remembered_of_one_method_is_not_used_for_another() -> None:
    body = frame(predict(spec("m")))
    assert calls(PREDICT, body) == [predicts(ref("m"))]
    assert calls(METHODS[PREDICTION + b"Classify"], body) == [Call(Verb.CLASSIFY, (ref("m"),))]
    assert refusal(MULTI, body).reason is Reason.MALFORMED_MESSAGE


@pytest.mark.parametrize(
    "more", [predict(spec("secret")), b"\x8a\x80\x80\x80\x00\x08\x0a\x06secret", b"\x12\x05abcd", b"\x80", b"\x0b"]
)
def test_what_is_remembered_does_not_hide_what_follows(more: bytes) -> None:
    known = frame(predict(spec("public")))
    calls(PREDICT, known)
    body = frame(predict(spec("public")) + more)
    try:
        assert calls(PREDICT, body)[-1] == predicts(ref("secret"))
    except Refusal as refused:
        assert more != predict(spec("secret"))
        assert refused.reason is Reason.MALFORMED_MESSAGE  # noqa: PT017


# ------------------------------------------------------------------------------------------------------ its framing

ONE = frame(predict(spec("m")))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no message"),
        (ONE + b"\0", "within a message"),
        (ONE + b"\0\0\0\0", "within a message"),
        (ONE[:-1], "within a message"),
        (ONE[:4], "within a message"),
        (b"\2" + ONE[1:], "compressed-flag"),
        (b"\xff" + ONE[1:], "compressed-flag"),
        (ONE + b"\2\0\0\0\0", "compressed-flag"),
        (b"\0\0\0\0\x04" + ONE[5:], "longer than its message"),
        (ONE + b"\0\0\0\0\0", "Missing ModelSpec"),
    ],
)
def test_refuses_a_body_that_is_not_whole_messages(body: bytes, why: str, step: int) -> None:
    refused = refusal(PREDICT, body, step)
    assert refused.reason is Reason.MALFORMED_MESSAGE
    assert why in refused.message


def test_refuses_a_message_that_the_server_would_not_take() -> None:
    refused = refusal(PREDICT, b"\0\x80\0\0\0x")
    assert (refused.reason, refused.limit) == (Reason.BODY_TOO_LARGE, "message_bytes")


@pytest.mark.parametrize("step", STEPS)
def test_a_stream_is_a_call_to_all_that_its_messages_name(step: int) -> None:
    body = ONE + ONE + frame(TENSOR + predict(spec("public"), spec("other"))) + ONE
    returned = calls(PREDICT, body, step)
    assert returned[-1] == predicts(ref("m"), ref("other"))
    assert (step == 1 << 30) == (len(returned) == 1)


def test_a_stream_is_decided_again_before_the_message_that_needs_it_is_complete() -> None:
    scan = BodyScan(kind(PREDICT))
    assert scan.feed(ONE, False) == predicts(ref("m"))
    assert scan.feed(ONE, False) is None
    later = frame(TENSOR + predict(spec("secret")))
    assert scan.feed(later[:-1], False) is None
    assert scan.feed(later[-1:], False) == predicts(ref("m"), ref("secret"))
    assert scan.feed(b"", True) is None


def test_a_model_that_a_message_took_back_is_not_called() -> None:
    body = frame(predict(spec("public"), spec("secret"))) + ONE
    assert calls(PREDICT, body, 1) == [
        predicts(ref("public")),
        predicts(ref("secret")),
        predicts(ref("secret"), ref("m")),
    ]


@pytest.mark.parametrize("step", STEPS)
def test_a_reload_is_one_message(step: int) -> None:
    body = frame(reload(config("a")))
    assert "one message" in refusal(RELOAD, body + body, step).message


# ------------------------------------------------------------------------------------------------------- compressed


def compressed(message: bytes, how: Any = gzip.compress) -> bytes:
    return frame(how(message), compressed=True)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("encoding", "how"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
@pytest.mark.parametrize("name", READ)
def test_reads_compressed_messages(name: str, encoding: bytes, how: Any, step: int) -> None:
    message, expected = READ[name]
    assert calls(PREDICT, compressed(message, how), step, encoding=encoding)[-1] == predicts(expected)


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_the_same_when_compressed(name: str) -> None:
    message, _ = REFUSED[name]
    assert refusal(PREDICT, compressed(message), encoding=b"gzip").reason is Reason.MALFORMED_MESSAGE


def test_compressed_and_plain_messages_may_follow_each_other() -> None:
    body = compressed(predict(spec("a"))) + frame(predict(spec("b"))) + compressed(predict(spec("c")))
    assert calls(PREDICT, body, encoding=b"gzip") == [predicts(ref("a"), ref("b"), ref("c"))]


@pytest.mark.parametrize("encoding", [None, b"identity", b"snappy", b"br"])
def test_refuses_what_it_cannot_inflate(encoding: bytes | None) -> None:
    assert refusal(PREDICT, compressed(predict(spec("m"))), encoding=encoding).reason is Reason.UNSUPPORTED_ENCODING
    assert calls(PREDICT, ONE, encoding=encoding) == [predicts(ref("m"))]


def test_tells_the_call_of_a_compressed_message_early() -> None:
    noise = bytes(zlib.crc32(bytes([i % 251, i // 251])) & 0xFF for i in range(50_000))
    body = compressed(predict(spec("m"), inputs=length(2, noise)))
    scan = BodyScan(kind(PREDICT), b"gzip")
    assert scan.feed(body[:4096], False) == predicts(ref("m"))
    assert scan.feed(body[4096:], True) is None


@pytest.mark.parametrize(
    ("body", "reason", "limit"),
    [
        (compressed(predict(spec("m"), inputs=length(2, bytes(64 << 20)))), Reason.BODY_TOO_LARGE, "inflated_bytes"),
        (compressed(predict(spec("m"), inputs=b"\x18\x00" * 20_000)), Reason.SCAN_LIMIT, "fields"),
        (frame(gzip.compress(predict(spec("m"))) * 2, compressed=True), Reason.MALFORMED_MESSAGE, None),
        (frame(gzip.compress(predict(spec("m"))) + b"\0", compressed=True), Reason.MALFORMED_MESSAGE, None),
        (frame(gzip.compress(predict(spec("m")))[:-1], compressed=True), Reason.MALFORMED_MESSAGE, None),
        (frame(predict(spec("m")), compressed=True), Reason.MALFORMED_MESSAGE, None),
        (frame(b"", compressed=True), Reason.MALFORMED_MESSAGE, None),
    ],
)
def test_refuses_hostile_compression(body: bytes, reason: Reason, limit: str | None) -> None:
    for step in (7, 1 << 30):
        refused = refusal(PREDICT, body, step, encoding=b"gzip")
        assert (refused.reason, refused.limit) == (reason, limit)


# -------------------------------------------------------------------------------------------------------------- many


def task(*specs: bytes, method_name: str = "tensorflow/serving/classify") -> bytes:
    return length(1, predict(*specs) + length(2, method_name.encode()))


@pytest.mark.parametrize("step", STEPS)
def test_multi_inference_names_the_model_of_every_task(step: int) -> None:
    body = frame(task(spec("m", version=1)) + length(2, b"input") + task(spec("m", version=2, signature="s")))
    expected = (ref("m", version=1), ref("m", version=2, signature="s"))
    returned = calls(MULTI, body, step)
    assert returned[-1] == Call(Verb.MULTI_INFERENCE, expected)
    if step == 1:
        assert returned[0] == Call(Verb.MULTI_INFERENCE, expected[:1])


@pytest.mark.parametrize(
    ("body", "models"),
    [
        (task(spec("m")), (ref("m"),)),
        (task(spec("m")) * 3, (ref("m"),)),
        (task(spec("public"), spec("secret", version=2)), (ref("secret", version=2),)),
        (task(spec("a")) + task(spec("b")) + task(spec("c")), (ref("a"), ref("b"), ref("c"))),
        (length(2, b"input") + task(spec("a")), (ref("a"),)),
        (length(1, length(2, b"method") + predict(spec("a"))), (ref("a"),)),
    ],
)
def test_tasks_are_read_as_protobuf_does(messages: dict[str, Any], body: bytes, models: tuple[ModelRef, ...]) -> None:
    for step in STEPS:
        assert calls(MULTI, frame(body), step)[-1] == Call(Verb.MULTI_INFERENCE, models)
    read = [spec_of(each.model_spec) for each in messages["TasksRequest"].FromString(body).tasks]
    assert tuple(dict.fromkeys(read)) == models


@pytest.mark.parametrize(
    "body", [b"", length(2, b"input"), length(1, b""), task(), task(b""), task(spec("m")) + task(spec(version=1))]
)
def test_every_task_needs_a_model(body: bytes) -> None:
    assert refusal(MULTI, frame(body)).message == "Missing ModelSpec"


def config(*names: str) -> bytes:
    """A ModelServerConfig with a list."""
    return length(1, b"".join(length(1, length(1, name.encode()) + length(2, b"/models")) for name in names))


CUSTOM = length(2, length(1, b"type.googleapis.com/x"))


def reload(*configs: bytes) -> bytes:
    return b"".join(length(1, each) for each in configs)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (reload(config("a")), ["a"]),
        (reload(config("a", "b")), ["a", "b"]),
        (reload(config("a", "a")), ["a"]),
        (reload(config("a"), config("b")), ["a", "b"]),
        (reload(config("a") + config("b")), ["a", "b"]),
        (length(2, b"metric") + reload(config("a")) + length(2, b"metric"), ["a"]),
        (reload(length(1, length(1, length(1, b"public") + length(1, b"secret")))), ["secret"]),
        (reload(config(*(f"model-{i}" for i in range(500)))), [f"model-{i}" for i in range(500)]),
        (reload(config()), []),
        (reload(b""), []),
        (b"", []),
        (length(2, b"metric"), []),
        (reload(CUSTOM), []),
        (reload(config("a"), CUSTOM), []),
        (reload(config("a") + CUSTOM), []),
        (reload(CUSTOM, config("a")), ["a"]),
        (reload(config("a") + CUSTOM + CUSTOM), []),
        (reload(CUSTOM + CUSTOM + config("a") + config("b")), ["a", "b"]),
        (reload(config("a") + b"\x08\x01"), ["a"]),
        (reload(config("a") + b"\x10\x01"), ["a"]),
    ],
)
def test_a_reload_names_the_models_it_lists(messages: dict[str, Any], body: bytes, names: list[str]) -> None:
    for step in STEPS:
        assert calls(RELOAD, frame(body), step)[-1] == Call(Verb.RELOAD, tuple(ModelRef(name) for name in names))
    read = messages["ConfigRequest"].FromString(body).config.model_config_list.config
    assert list(dict.fromkeys(each.name for each in read)) == names


@pytest.mark.parametrize(
    "message",
    [
        reload(config("a") + CUSTOM + config("b")),
        reload(config("a"), CUSTOM, config("b")),
        reload(config() + CUSTOM + config("b")),
        reload(CUSTOM + config("a") + CUSTOM + CUSTOM + config("b")),
    ],
)
def test_a_list_does_not_come_back(message: bytes) -> None:
    """C++ reads the second one, protobuf-java both."""
    for step in STEPS:
        assert "comes again" in refusal(RELOAD, frame(message), step).message


@pytest.mark.parametrize(
    "config", [config("a", ""), length(1, length(1, b"")), length(1, length(1, length(2, b"/models")))]
)
def test_a_reload_names_every_model(config: bytes) -> None:
    assert "no name" in refusal(RELOAD, frame(reload(config))).message


# ------------------------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    ("asked", "body", "limits", "limit"),
    [
        (PREDICT, frame(predict(spec("m") + length(9, bytes(65_536)))), ScanLimits(), "spec_bytes"),
        (PREDICT, frame(predict(*[spec("m" * 200)] * 400)), ScanLimits(), "spec_bytes"),
        (PREDICT, frame(predict(*[b""] * 1025)), ScanLimits(), "models"),
        (PREDICT, frame(predict(spec("m") + b"\x48\x00" * 16_384)), ScanLimits(), "fields"),
        (PREDICT, frame(predict(spec("m"), inputs=b"\x48\x00" * 16_384)), ScanLimits(), "fields"),
        (PREDICT, b"".join(frame(predict(spec(f"m{i}"))) for i in range(4)), ScanLimits(models=3), "models"),
        (MULTI, frame(b"".join(task(spec("m"), method_name="") for _ in range(1025))), ScanLimits(), "models"),
        (RELOAD, frame(reload(config(*["a"] * 1025))), ScanLimits(), "models"),
        (RELOAD, frame(reload(length(9, bytes(1 << 20)))), ScanLimits(), "config_bytes"),
        (RELOAD, frame(reload(b"\x48\x00" * 400_000)), ScanLimits(), "fields"),
    ],
)
@pytest.mark.parametrize("step", [1000, 1 << 30])
def test_every_limit_names_itself(asked: Operation, body: bytes, limits: ScanLimits, limit: str, step: int) -> None:
    refused = refusal(asked, body, step, limits=limits)
    assert refused.limit == limit
    assert refused.reason in (Reason.SCAN_LIMIT, Reason.BODY_TOO_LARGE)


def test_a_reload_may_be_longer_than_a_model_spec() -> None:
    body = frame(reload(config(*(f"{i:0200}" for i in range(1000)))))
    assert len(body) > 200_000
    assert len(calls(RELOAD, body, 16_384)[-1].models) == 1000


# -------------------------------------------------------------------------------------------------- against the oracle

model_configs = st.lists(st.one_of(texts.map(lambda text: length(1, text.encode())), others), max_size=3).map(
    lambda parts: length(1, b"".join(parts))
)
lists = st.lists(st.one_of(model_configs, others), max_size=3).map(lambda parts: length(1, b"".join(parts)))
configs = st.lists(st.one_of(lists, st.just(CUSTOM), unknown), max_size=3).map(lambda parts: length(1, b"".join(parts)))
config_requests = st.lists(st.one_of(configs, others), max_size=3).map(b"".join)


def outcome(asked: Operation, body: bytes, **options: Any) -> Call | None:
    try:
        return calls(asked, body, **options)[-1]
    except Refusal:
        return None


def check(asked: Operation, message: bytes, steps: list[int], expected: tuple[ModelRef, ...] | None) -> Call | None:
    """Scans a message in every way there is. `expected`: as protobuf reads it, None if it refuses."""
    call = outcome(asked, frame(message))
    assert outcome(asked, frame(message), steps=steps) == call
    assert outcome(asked, frame(message)) == call  # now from memory
    assert outcome(asked, compressed(message), steps=steps, encoding=b"gzip") == call
    if call is not None:
        assert call == Call(asked.verb, expected or ())
        assert expected is not None
    return call


def oracle_spec(messages: dict[str, Any], message: bytes) -> tuple[ModelRef, ...] | None:
    try:
        return (spec_of(messages["SpecRequest"].FromString(message).model_spec),)
    except DecodeError:
        return None


def oracle_tasks(messages: dict[str, Any], message: bytes) -> tuple[ModelRef, ...] | None:
    try:
        read = messages["TasksRequest"].FromString(message)
    except DecodeError:
        return None
    return tuple(dict.fromkeys(spec_of(each.model_spec) for each in read.tasks))


def oracle_config(messages: dict[str, Any], message: bytes) -> tuple[ModelRef, ...] | None:
    try:
        read = messages["ConfigRequest"].FromString(message)
    except DecodeError:
        return None
    return tuple(dict.fromkeys(ModelRef(each.name) for each in read.config.model_config_list.config))


@given(message=spec_requests, steps=cuts)
@settings(max_examples=tries(200))
def test_whatever_is_well_formed_is_read_as_protobuf_reads_it(
    messages: dict[str, Any], message: bytes, steps: list[int]
) -> None:
    expected = oracle_spec(messages, message)
    assert expected is not None
    is_clear = bool(expected[0].name) and not lacks_a_number(message)
    assert (check(PREDICT, message, steps, expected) is not None) == is_clear


@given(message=task_requests, steps=cuts)
@settings(max_examples=tries(150))
def test_whatever_tasks_are_well_formed_are_read_as_protobuf_reads_them(
    messages: dict[str, Any], message: bytes, steps: list[int]
) -> None:
    expected = oracle_tasks(messages, message)
    assert expected is not None
    is_clear = bool(expected) and all(each.name for each in expected) and not any(map(lacks_a_number, parts(message)))
    assert (check(MULTI, message, steps, expected) is not None) == is_clear


@given(message=config_requests, steps=cuts)
@settings(max_examples=tries(150))
def test_whatever_configuration_is_well_formed_is_read_as_protobuf_reads_it(
    messages: dict[str, Any], message: bytes, steps: list[int]
) -> None:
    expected = oracle_config(messages, message)
    assert expected is not None
    call = check(RELOAD, message, steps, expected)
    if all(each.name for each in expected) and call is None:
        # A nameless model is refused even where a later member of the oneof takes it away again.
        assert any(not each for each in names_ever(message)) or has_a_list_again(message)


def parts(message: bytes, number: int = 1) -> list[bytes]:
    """The values of a field."""
    found = FieldWalker().read(message, (number << 3 | 2,), 0)
    return [value for _, value in found]  # type: ignore[misc]


def lacks_a_number(message: bytes) -> bool:
    """Whether a version of `model_spec` that is not the first has none."""
    versions = [version for spec in parts(message) for version in parts(spec, 2)]
    return any(not FieldWalker().read(version, (0x08,), 0) for version in versions[1:])


def has_a_list_again(message: bytes) -> bool:
    """Whether a list of models comes behind another configuration, and that behind a list."""
    members = "".join(str(tag >> 3) for config in parts(message) for tag, _ in FieldWalker().read(config, (10, 18), 0))
    return re.search("1.*2.*1", members) is not None


def names_ever(message: bytes) -> list[str]:
    """Names of all models of all lists, whatever the oneof keeps in the end."""
    models = [model for server in parts(message) for each in parts(server) for model in parts(each)]
    return [(parts(model) or [b""])[-1].decode() for model in models]


@given(message=st.one_of(st.binary(max_size=60), damaged(spec_requests)), steps=cuts)
@settings(max_examples=tries(200))
def test_whatever_is_taken_protobuf_reads_the_same(messages: dict[str, Any], message: bytes, steps: list[int]) -> None:
    check(PREDICT, message, steps, oracle_spec(messages, message))


@given(message=st.one_of(st.binary(max_size=60), damaged(task_requests)), steps=cuts)
@settings(max_examples=tries(150))
def test_whatever_tasks_are_taken_protobuf_reads_the_same(
    messages: dict[str, Any], message: bytes, steps: list[int]
) -> None:
    check(MULTI, message, steps, oracle_tasks(messages, message))


@given(message=st.one_of(st.binary(max_size=60), damaged(config_requests)), steps=cuts)
@settings(max_examples=tries(150))
def test_whatever_configuration_is_taken_protobuf_reads_the_same(
    messages: dict[str, Any], message: bytes, steps: list[int]
) -> None:
    check(RELOAD, message, steps, oracle_config(messages, message))


@given(body=st.binary(max_size=80), encoding=st.sampled_from([None, b"gzip", b"deflate"]), steps=cuts)
@settings(max_examples=tries(200))
def test_any_body_is_a_call_or_a_refusal(body: bytes, encoding: bytes | None, steps: list[int]) -> None:
    for asked in (PREDICT, MULTI, RELOAD):
        assert outcome(asked, body, encoding=encoding) == outcome(asked, body, encoding=encoding, steps=steps)


def test_a_scan_is_made_per_body() -> None:
    first, second = BodyScan(kind(PREDICT)), BodyScan(kind(PREDICT))
    assert isinstance(first, BodyScan)
    first.feed(ONE, True)
    assert first.call is not None
    assert second.call is None


# The client

ID_SPEC = b"\x0a\x03\x0a\x01m"
ID_TENSOR = b"\x12\xc8\x01" + bytes(200)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (ID_SPEC + ID_TENSOR + b"\x32\x02me", b"me"),
        (b"\x32\x02me" + ID_SPEC + ID_TENSOR, b"me"),
        (b"\x32\x02me\x32\x03you", b"you"),
        (b"\x32\x02me" + ID_TENSOR + b"\x32\x00", b""),
        (b"\x32\xac\x02" + bytes(300), bytes(300)),
        (b"\x32\x02me" + b"\x30\x05", b"me"),  # another wire type: an unknown field
        (b"\x12\x04\x32\x02me", None),  # within a tensor
        (b"\x33\x32\x02me\x34", None),  # within a group
        (ID_SPEC + ID_TENSOR, None),
        (b"", None),
        (b"\x32\x02me" + b"\x32\x05you", None),
        (b"\x32\x02me" + b"\x80", None),
        (b"\x32\x02me" + b"\x33", None),
        (b"\x32\x02me" + b"\x0f", None),
        (b"\xb2\x80\x00\x02me", None),
    ],
)
def test_reads_the_client_as_protobuf_does(message: bytes, expected: bytes | None) -> None:
    assert client_id(frame(message)) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0\0",
        b"\0\0\0\0\x05\x32\x02me",
        b"\0\0\0\0\x03\x32\x02me",
        frame(b"\x32\x02me", compressed=True),
        frame(b"\x32\x02me") * 2,
    ],
)
def test_anything_but_one_whole_message_names_no_client(body: bytes) -> None:
    assert client_id(body) is None


@given(
    message=st.lists(
        st.sampled_from([ID_SPEC, ID_TENSOR, b"\x32\x02me", b"\x32\x00", b"\x32\x03you", b"\x28\x01", b"\x4b\x4c"])
        | st.binary(max_size=6),
        max_size=5,
    ).map(b"".join)
)
@settings(max_examples=tries(300))
def test_protobuf_reads_the_same(messages: dict[str, Any], message: bytes) -> None:
    found = client_id(frame(message))
    if found is None:
        return
    try:
        oracle = messages["ClientRequest"].FromString(message)
    except DecodeError as error:
        raise AssertionError("protobuf refuses it") from error
    assert oracle.client_id == found
