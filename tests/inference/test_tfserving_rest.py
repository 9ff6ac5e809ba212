from __future__ import annotations

import posixpath
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshproxy.inference.call import Call, Chosen, ModelRef, Verb
from meshproxy.inference.surface import Operation
from meshproxy.inference.surfaces import SURFACES, surfaces
from meshproxy.inference.tfserving_rest import rewrite_target
from meshproxy.refusal import Reason, Refusal
from tests.thorough import tries


def read(method: bytes, target: bytes) -> Operation:
    found = SURFACES.find_rest(method, target)
    assert found.call is not None
    assert found.verb is found.call.verb
    return found


def named(method: bytes, target: bytes) -> Call:
    call = read(method, target).call
    assert call is not None
    return call


def both(operation: Operation) -> tuple[Call | None, bytes]:
    return operation.call, operation.target


SURFACE = [
    (b"POST", b"/v1/models/m:predict", Verb.PREDICT, ModelRef("m")),
    (b"POST", b"/v1/models/m:classify", Verb.CLASSIFY, ModelRef("m")),
    (b"POST", b"/v1/models/m:regress", Verb.REGRESS, ModelRef("m")),
    (b"POST", b"/v1/models/m/versions/3:predict", Verb.PREDICT, ModelRef("m", version="3")),
    (b"POST", b"/v1/models/m/versions/0:regress", Verb.REGRESS, ModelRef("m", version="0")),
    (b"POST", b"/v1/models/m/labels/stable:classify", Verb.CLASSIFY, ModelRef("m", label="stable")),
    (b"GET", b"/v1/models/m", Verb.STATUS, ModelRef("m")),
    (b"GET", b"/v1/models/m/versions/3", Verb.STATUS, ModelRef("m", version="3")),
    (b"GET", b"/v1/models/m/versions/9223372036854775807", Verb.STATUS, ModelRef("m", version="9223372036854775807")),
    (b"GET", b"/v1/models/m/labels/stable", Verb.STATUS, ModelRef("m", label="stable")),
    (b"GET", b"/v1/models/m/metadata", Verb.METADATA, ModelRef("m")),
    (b"GET", b"/v1/models/m/versions/3/metadata", Verb.METADATA, ModelRef("m", version="3")),
    (b"GET", b"/v1/models/m/labels/stable/metadata", Verb.METADATA, ModelRef("m", label="stable")),
    (b"POST", b"/v1/models/half_plus_two-1.0~x:predict", Verb.PREDICT, ModelRef("half_plus_two-1.0~x")),
    (b"POST", b"/v1/models/*:predict", Verb.PREDICT, ModelRef("*")),
    # names with slashes
    (b"POST", b"/v1/models/team%2Fresnet:predict", Verb.PREDICT, ModelRef("team/resnet")),
    (b"POST", b"/v1/models/a%2Fb%2F...%2Fc.d/versions/3:regress", Verb.REGRESS, ModelRef("a/b/.../c.d", version="3")),
    (b"GET", b"/v1/models/team%2Fr%C3%A9snet/labels/x", Verb.STATUS, ModelRef("team/résnet", label="x")),
    (b"GET", b"/v1/models/team%2Fresnet/metadata", Verb.METADATA, ModelRef("team/resnet")),
    # words of the API as names: the server prefers to read a name
    (b"GET", b"/v1/models/metadata", Verb.STATUS, ModelRef("metadata")),
    (b"GET", b"/v1/models/versions", Verb.STATUS, ModelRef("versions")),
    (b"GET", b"/v1/models/labels/metadata", Verb.METADATA, ModelRef("labels")),
    (b"GET", b"/v1/models/versions/metadata", Verb.METADATA, ModelRef("versions")),
    (b"GET", b"/v1/models/m/labels/metadata", Verb.STATUS, ModelRef("m", label="metadata")),
    (b"GET", b"/v1/models/labels/labels/labels", Verb.STATUS, ModelRef("labels", label="labels")),
    (b"GET", b"/v1/models/m/labels/versions/metadata", Verb.METADATA, ModelRef("m", label="versions")),
    (b"GET", b"/v1/models/metadata/metadata", Verb.METADATA, ModelRef("metadata")),
]


@pytest.mark.parametrize(("verb", "target", "asked", "ref"), SURFACE)
def test_reads_the_surface_and_forwards_it_as_it_is(verb: bytes, target: bytes, asked: Verb, ref: ModelRef) -> None:
    if b"*" in target:
        assert both(read(verb, target)) == (Call(asked, (ref,)), target.replace(b"*", b"%2A"))
    else:
        assert both(read(verb, target)) == (Call(asked, (ref,)), target)


def test_reads_the_metrics_page() -> None:
    target = b"/monitoring/prometheus/metrics"
    assert both(read(b"GET", target)) == (Call(Verb.METRICS), target)


@pytest.mark.parametrize(
    ("target", "name", "forwarded"),
    [
        (b"/v1/models/a%20b:predict", "a b", b"/v1/models/a%20b:predict"),
        (b"/v1/models/gr%c3%b6%C3%9Fe:predict", "größe", b"/v1/models/gr%C3%B6%C3%9Fe:predict"),
        (b"/v1/models/a+b:predict", "a+b", b"/v1/models/a%2Bb:predict"),
        (b"/v1/models/a%2bb:predict", "a+b", b"/v1/models/a%2Bb:predict"),
        (b"/v1/models/a@b,c=(d)!:predict", "a@b,c=(d)!", b"/v1/models/a%40b%2Cc%3D%28d%29%21:predict"),
        (b"/v1/models/%5Bx%5D:predict", "[x]", b"/v1/models/%5Bx%5D:predict"),
    ],
)
def test_a_name_has_one_spelling_when_forwarded(target: bytes, name: str, forwarded: bytes) -> None:
    assert both(read(b"POST", target)) == (Call(Verb.PREDICT, (ModelRef(name),)), forwarded)


def test_a_label_is_decoded_too() -> None:
    answer = read(b"GET", b"/v1/models/m/labels/%C3%A9/metadata")
    assert answer.call == Call(Verb.METADATA, (ModelRef("m", label="é"),))
    assert answer.target == b"/v1/models/m/labels/%C3%A9/metadata"


def refusal(verb: bytes, target: bytes) -> Refusal:
    with pytest.raises(Refusal) as refused:
        read(verb, target)
    assert refused.value.reason is Reason.BAD_REQUEST
    return refused.value


NAMES = {
    # what the server would decode or fold to the same name
    "pct-letter": b"/v1/models/fin%61nce:predict",
    "pct-digit": b"/v1/models/m%31:predict",
    "pct-underscore": b"/v1/models/half%5Fplus_two:predict",
    "pct-dot": b"/v1/models/m%2Ex:predict",
    "pct-whole": b"/v1/models/%66%69%6E:predict",
    "pct-verb": b"/v1/models/m:%70redict",
    "pct-colon-before-verb": b"/v1/models/m%3Apredict",
    "pct-models": b"/v1/m%6fdels/m:predict",
    "upper-v": b"/V1/models/m:predict",
    "upper-models": b"/v1/Models/m:predict",
    "upper-verb": b"/v1/models/m:PREDICT",
    "upper-versions": b"/v1/models/m/Versions/3:predict",
    "upper-labels": b"/v1/models/m/LABELS/x:predict",
    # delimiters within names
    "pct-slash-twice": b"/v1/models/public%252Fsecret:predict",
    "pct-slash-first": b"/v1/models/%2Fsecret:predict",
    "pct-slash-last": b"/v1/models/public%2F:predict",
    "pct-slash-double": b"/v1/models/public%2F%2Fsecret:predict",
    "pct-slash-dot": b"/v1/models/public%2F.%2Fsecret:predict",
    "pct-slash-dotdot": b"/v1/models/public%2F..%2Fsecret:predict",
    "pct-slash-dotdot-first": b"/v1/models/..%2Fsecret:predict",
    "pct-slash-pct-dots": b"/v1/models/public%2F%2E%2E%2Fsecret:predict",
    "pct-slash-version": b"/v1/models/m%2Fversions%2F2:predict",
    "pct-slash-version-upper": b"/v1/models/m%2FVersions%2F2:predict",
    "pct-slash-version-last": b"/v1/models/m%2Fversions/versions/2:predict",
    "pct-slash-label": b"/v1/models/m%2flabels%2fx:predict",
    "pct-slash-colon": b"/v1/models/m%2Fx%3Apredict:predict",
    "pct-backslash": b"/v1/models/public%5Csecret:predict",
    "pct-colon": b"/v1/models/public%3Asecret:predict",
    "pct-question": b"/v1/models/m%3Fx:predict",
    "pct-hash": b"/v1/models/m%23:predict",
    "pct-percent": b"/v1/models/fin%2561nce:predict",
    "pct-semicolon": b"/v1/models/m%3Bx:predict",
    "pct-nul": b"/v1/models/m%00:predict",
    "pct-newline": b"/v1/models/m%0A:predict",
    "pct-crlf": b"/v1/models/m%0D%0Ax:predict",
    "pct-escape": b"/v1/models/m%1b[m:predict",
    "pct-del": b"/v1/models/m%7F:predict",
    "pct-c1": b"/v1/models/m%C2%85:predict",
    "pct-not-utf8": b"/v1/models/m%FF:predict",
    "pct-overlong": b"/v1/models/m%C0%AFx:predict",
    "pct-surrogate": b"/v1/models/m%ED%A0%80:predict",
    "pct-label-slash": b"/v1/models/m/labels/a%2Fb:predict",
    "pct-label-letter": b"/v1/models/m/labels/st%61ble:predict",
    # no escapes at all
    "pct-bad": b"/v1/models/m%zz:predict",
    "pct-one-digit": b"/v1/models/m%4:predict",
    "pct-cut": b"/v1/models/m%:predict",
    "pct-unicode": b"/v1/models/m%u0061:predict",
    # path games
    "dot": b"/v1/models/.:predict",
    "dotdot": b"/v1/models/..:predict",
    "dotdot-segment": b"/v1/models/public/../secret:predict",
    "dotdot-prefix": b"/v1/models/../models/m:predict",
    "dot-segment": b"/v1/models/./m:predict",
    "pct-dotdot": b"/v1/models/%2e%2e:predict",
    "double-slash": b"/v1/models//m:predict",
    "double-slash-inside": b"/v1//models/m:predict",
    "trailing-slash": b"/v1/models/m:predict/",
    "param": b"/v1/models/m;x=y:predict",
    "param-verb": b"/v1/models/m:predict;x",
    "param-segment": b"/v1/models;x/m:predict",
    "param-dotdot": b"/v1/models/..;/m:predict",
    "query": b"/v1/models/m:predict?x=y",
    "query-empty": b"/v1/models/m:predict?",
    "fragment": b"/v1/models/m:predict#x",
    "no-name": b"/v1/models/:predict",
    "no-name-version": b"/v1/models/versions/3:predict",
    "no-verb": b"/v1/models/m",
    "no-verb-colon": b"/v1/models/m:",
    "other-verb": b"/v1/models/m:explain",
    "two-verbs": b"/v1/models/m:predict:predict",
    "verb-and-more": b"/v1/models/m:predicts",
    "metadata": b"/v1/models/m/metadata:predict",
    "version-and-label": b"/v1/models/m/versions/3/labels/x:predict",
    "other-segment": b"/v1/models/m/version/3:predict",
    "deeper": b"/v1/models/a/b:predict",
    "other-path": b"/v1/foo",
    # versions
    "version-padded": b"/v1/models/m/versions/03:predict",
    "version-padded-zero": b"/v1/models/m/versions/00:predict",
    "version-negative": b"/v1/models/m/versions/-1:predict",
    "version-plus": b"/v1/models/m/versions/+1:predict",
    "version-underscore": b"/v1/models/m/versions/1_0:predict",
    "version-hex": b"/v1/models/m/versions/0x1:predict",
    "version-float": b"/v1/models/m/versions/1.0:predict",
    "version-empty": b"/v1/models/m/versions/:predict",
    "version-word": b"/v1/models/m/versions/latest:predict",
    "version-pct": b"/v1/models/m/versions/%31:predict",
    "version-space": b"/v1/models/m/versions/1%20:predict",
    "label-empty": b"/v1/models/m/labels/:predict",
    # bytes that no codec lets through, but nobody has to rely on that
    "space": b"/v1/models/m x:predict",
    "newline": b"/v1/models/m:predict\n",
    "nul": b"/v1/models/m\0:predict",
    "raw-utf8": "/v1/models/größe:predict".encode(),
    "arabic-digits": "/v1/models/m/versions/\u0663:predict".encode(),
    "long-s": "/v1/model\u017f/m:predict".encode(),
    "backslash": b"/v1/models\\m:predict",
    "long": b"/v1/models/" + b"m" * 257 + b":predict",
    "long-label": b"/v1/models/m/labels/" + b"m" * 257 + b":predict",
    "long-decoded": b"/v1/models/" + b"%C3%B6" * 129 + b":predict",
}


@pytest.mark.parametrize("name", NAMES)
def test_refuses_whatever_has_another_reading(name: str) -> None:
    refused = refusal(b"POST", NAMES[name])
    assert refused.http_status == 400
    assert refused.message.startswith("Malformed request: POST /")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("no-verb", "metadata")])
def test_refuses_it_for_reading_too(name: str) -> None:
    target = NAMES[name].removesuffix(b":predict")
    if target != NAMES[name]:
        assert refusal(b"GET", target).http_status == 400


def test_takes_names_up_to_the_limit() -> None:
    assert named(b"POST", b"/v1/models/" + b"m" * 256 + b":predict").models[0].name == "m" * 256


@pytest.mark.parametrize("target", [b"/v1/models", b"/v1/models/versions/3", b"/v1/models/labels/x/metadata"])
def test_lists_no_models(target: bytes) -> None:
    refused = refusal(b"GET", target)
    assert (refused.http_status, refused.message) == (400, "Missing model name in request.")


@pytest.mark.parametrize("version", [b"9223372036854775808", b"99999999999999999999", b"1" * 5000])
def test_refuses_versions_beyond_64_bits(version: bytes) -> None:
    refused = refusal(b"POST", b"/v1/models/m/versions/%s:predict" % version)
    assert refused.http_status == 400
    assert re.fullmatch(r"Failed to convert version: [0-9]{19,20} to numeric\.", refused.message)


@pytest.mark.parametrize(
    "target", [b"/v1/models/m:predict", b"/v1/models/m", b"/v1/models", b"/monitoring/prometheus/metrics"]
)
@pytest.mark.parametrize("verb", [b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS", b"TRACE", b"post", b"get", b""])
def test_refuses_other_methods(verb: bytes, target: bytes) -> None:
    assert refusal(verb, target).http_status == 400


@pytest.mark.parametrize(
    ("verb", "target"),
    [
        (b"GET", b"/v1/models/m:predict"),
        (b"POST", b"/v1/models/m/metadata"),
        (b"POST", b"/v1/models"),
        (b"GET", b"/v1/models/"),
        (b"GET", b"/v1/models/m/"),
        (b"GET", b"/v1/"),
        (b"GET", b"/v1/models?x"),
        (b"GET", b"/v1/models/m/Metadata"),
        (b"POST", b"/monitoring/prometheus/metrics"),
        (b"GET", b"/monitoring/prometheus/metrics?x"),
    ],
)
def test_refuses_the_wrong_method_for_a_target(verb: bytes, target: bytes) -> None:
    refused = refusal(verb, target)
    assert (refused.http_status, refused.message[:18]) == (400, "Malformed request:")


@pytest.mark.parametrize("verb", [b"GET", b"POST", b"OPTIONS"])
@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"",
        b"*",
        b"/v1",
        b"/v2/models/m/infer",
        b"v1/models/m:predict",
        b"//v1/models/m:predict",
        b"/x/../v1/models/m:predict",
        b"/./v1/models/m:predict",
        b"/%761/models/m:predict",
        b"/%2Fv1/models/m:predict",
        b";/v1/models/m:predict",
        b"http://h/v1/models/m:predict",
        b"/monitoring/prometheus/metrics/",
        b"/Monitoring/prometheus/metrics",
        b"/monitoring/prometheus",
        b"/metrics",
        b"/tensorflow.serving.PredictionService/Predict",
    ],
)
def test_anything_else_is_not_found(verb: bytes, target: bytes) -> None:
    assert refusal(verb, target).http_status == 404


@pytest.mark.parametrize(
    "target", [b"/v1/<script>alert(1)</script>", b"/v1/\x1b[2J\r\n\"'\\", b"/x\xff\0&", b"/v1/" + b"x" * 8000]
)
def test_says_nothing_raw(target: bytes) -> None:
    message = refusal(b"GET\n", target).message
    assert len(message) < 1200
    assert message.isascii()
    assert message.isprintable()
    assert not set("<>&\"'") & set(message)


# TensorFlow Serving's own reading (http_rest_api_util.cc, ParseModelInfo), case folded, names decoded as curl does.

PREDICTION_API = re.compile(
    rb"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)",
    re.IGNORECASE | re.DOTALL,
)
MODEL_STATUS_API = re.compile(
    rb"/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:\/(metadata))?",
    re.IGNORECASE | re.DOTALL,
)


def unescape(text: bytes) -> bytes:
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text)


def served(verb: bytes, target: bytes) -> tuple[str, bytes, int | None, bytes | None] | None:
    """What the server would do: (verb, name, version, label)."""
    match = (PREDICTION_API if verb == b"POST" else MODEL_STATUS_API).fullmatch(target)
    if match is None or not match[1] or (match[2] and int(match[2]) >> 63):
        return None
    label = unescape(match[3]) if match[3] else None
    if verb == b"POST":
        if match[4] not in (b"classify", b"regress", b"predict"):
            return None
        asked = match[4].decode()
    else:
        asked = "metadata" if match[4] == b"metadata" else "status"
    return asked, unescape(match[1]), int(match[2]) if match[2] else None, label


SEGMENTS = (
    b"/v1 /models /V1 /m m / : /versions/ /versions /Versions/ 3 03 /labels/ /labels /metadata /Metadata :predict "
    b":Predict :classify %61 %2F %2f %252F a%2Fb %2Fversions%2F3 %2Fmetadata %2F..%2F %20 % %C3%A9 .. ?x #x ;x "
    b"9223372036854775807 9223372036854775808 \xff + @"
).split(b" ")
pieces = st.sampled_from([*SEGMENTS, b" ", b"\n"])
targets = st.one_of(
    st.lists(pieces, max_size=8).map(b"".join),
    st.lists(pieces, max_size=6).map(lambda parts: b"/v1/models/" + b"".join(parts)),
    st.lists(pieces, max_size=3).map(lambda parts: b"/v1/models/m" + b"".join(parts) + b":predict"),
    st.builds(
        lambda name, middle, end: b"/v1/models/" + name + middle + end,
        st.sampled_from(
            [b"m", b"versions", b"labels", b"metadata", b"a%20b", b"x+y", b"a%2Fb", b"a%2Fversions", b"a%2F", b"%2Fa"]
        ),
        st.sampled_from(
            [b"", b"/versions/3", b"/versions/0", b"/labels/stable", b"/labels/metadata", b"/labels/%C3%A9"]
        ),
        st.sampled_from([b"", b"/metadata", b":predict", b":classify", b":regress"]),
    ),
)


@given(verb=st.sampled_from([b"GET", b"POST"]), target=targets)
@example(verb=b"GET", target=b"/v1/models/labels/metadata")
@example(verb=b"GET", target=b"/v1/models/Labels/metadata")
@settings(max_examples=tries(400))
def test_whatever_is_taken_the_server_reads_the_same(verb: bytes, target: bytes) -> None:
    try:
        answer = read(verb, target)
    except Refusal:
        return
    assert answer.call is not None
    [ref] = answer.call.models
    mine = (
        answer.call.verb.value,
        ref.name.encode(),
        ref.version and int(ref.version),
        ref.label and ref.label.encode(),
    )
    assert served(verb, target) == mine
    assert served(verb, answer.target) == mine
    # A server that decodes the path before it matches reads the same, or nothing.
    assert served(verb, unescape(answer.target)) in (mine, None)
    assert served(verb, posixpath.normpath(unescape(answer.target).decode()).encode()) in (mine, None)
    assert both(read(verb, answer.target)) == both(answer)  # canonical: nothing changes any more
    assert re.fullmatch(rb"[A-Za-z0-9\-._~/:%]+", answer.target)


@given(verb=st.binary(max_size=8), target=st.binary(max_size=60))
@settings(max_examples=tries(200))
def test_anything_is_a_call_or_a_refusal(verb: bytes, target: bytes) -> None:
    for prefix in (b"", b"/v1/models/"):
        try:
            read(verb, prefix + target)
        except Refusal as refused:
            assert refused.http_status in (400, 404)  # noqa: PT017


# Another version


@pytest.mark.parametrize(
    ("method", "target", "version", "label", "expected"),
    [
        (b"POST", b"/v1/models/m:predict", 3, None, b"/v1/models/m/versions/3:predict"),
        (b"POST", b"/v1/models/m:classify", 0, None, b"/v1/models/m/versions/0:classify"),
        (b"POST", b"/v1/models/m/versions/7:regress", 3, None, b"/v1/models/m/versions/3:regress"),
        (b"POST", b"/v1/models/m/labels/stable:predict", 3, None, b"/v1/models/m/versions/3:predict"),
        (b"POST", b"/v1/models/m/versions/7:predict", None, "canary", b"/v1/models/m/labels/canary:predict"),
        (b"POST", b"/v1/models/m/versions/7:predict", None, None, b"/v1/models/m:predict"),
        (b"POST", b"/v1/models/m%20n:predict", None, "a b", b"/v1/models/m%20n/labels/a%20b:predict"),
        (b"POST", b"/v1/models/a%2fb:predict", 3, None, b"/v1/models/a%2Fb/versions/3:predict"),
        (b"GET", b"/v1/models/m", 3, None, b"/v1/models/m/versions/3"),
        (b"GET", b"/v1/models/m/labels/stable", 3, None, b"/v1/models/m/versions/3"),
        (b"GET", b"/v1/models/m/metadata", 3, None, b"/v1/models/m/versions/3/metadata"),
        (b"GET", b"/v1/models/labels/metadata", 3, None, b"/v1/models/labels/versions/3/metadata"),
    ],
)
def test_a_target_asks_the_same_of_another_version(
    method: bytes, target: bytes, version: int | None, label: str | None, expected: bytes
) -> None:
    chosen = Chosen(None, None if version is None else str(version), label)
    assert rewrite_target(named(method, target), chosen) == expected


@given(
    name=st.text("abm-é .", min_size=1, max_size=9).filter(lambda name: name not in (".", "..")),
    other=st.sampled_from([None, "other", "team/größe"]),
    label=st.none() | st.text("ab-é", min_size=1, max_size=9),
    number=st.integers(0, (1 << 63) - 1),
    verb=st.sampled_from([Verb.PREDICT, Verb.CLASSIFY, Verb.REGRESS, Verb.METADATA, Verb.STATUS]),
)
def test_a_rewritten_target_is_read_as_what_was_chosen(
    name: str, other: str | None, label: str | None, number: int, verb: Verb
) -> None:
    version = str(number) if label is None else None
    target = rewrite_target(Call(verb, (ModelRef(name, "99"),)), Chosen(other, version, label))
    method = b"GET" if verb in (Verb.METADATA, Verb.STATUS) else b"POST"
    assert named(method, target) == Call(verb, (ModelRef(other or name, version, label),))


def test_another_metrics_page() -> None:
    find = surfaces(["/metrics", "/prometheus/page"]).find_rest
    for target in (b"/metrics", b"/prometheus/page"):
        operation = find(b"GET", target)
        assert (operation.call, operation.target) == (Call(Verb.METRICS), target)
        for method, wrong in ((b"POST", target), (b"HEAD", target), (b"GET", target + b"?x")):
            with pytest.raises(Refusal) as caught:
                find(method, wrong)
            assert caught.value.http_status == 400
    for other in (b"/monitoring/prometheus/metrics", b"/Metrics", b"/metrics/", b"/metrics/x", b"//metrics"):
        with pytest.raises(Refusal) as caught:
            find(b"GET", other)
        assert caught.value.http_status == 404
    assert find(b"GET", b"/v1/models/metrics").verb is Verb.STATUS
