from __future__ import annotations

import base64
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.identity.jose import BRACKETS, DEPTH, decode_base64url, encode_base64url, load_object


@given(st.binary(max_size=40))
def test_base64url_goes_round(data: bytes) -> None:
    text = encode_base64url(data)
    assert text == base64.urlsafe_b64encode(data).rstrip(b"=")
    assert decode_base64url(text) == data


@given(st.binary(max_size=12) | st.text("AB-_+/= \n", max_size=12).map(str.encode))
def test_each_value_has_one_spelling(text: bytes) -> None:
    try:
        value = decode_base64url(text)
    except ValueError:
        return
    assert encode_base64url(value) == text


@pytest.mark.parametrize(
    "text", [b"A", b"AAAAA", b"AA=", b"AA==", b"=", b"AB", b"AAB", b"A A", b"AA\n", b"+A", b"/A", b"A.A", b"\xff\xff"]
)
def test_not_base64url(text: bytes) -> None:
    with pytest.raises(ValueError, match="not base64url"):
        decode_base64url(text)


def test_an_object() -> None:
    assert load_object(b' {"a": [1, 2.5, -0.0, true, null, "\\u00e9"], "b": {"a": 1}} ') == {
        "a": [1, 2.5, -0.0, True, None, "\u00e9"],
        "b": {"a": 1},
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), JSON, max_size=4), st.booleans())
def test_what_json_writes_is_read(value: dict[str, object], is_ascii: bool) -> None:
    try:
        text = json.dumps(value, ensure_ascii=is_ascii).encode()
    except UnicodeEncodeError:
        return  # half a character, which only an escape can carry
    assert load_object(text) == value


@given(st.binary(max_size=40) | st.text('{}[]":,\\u0eE+-.dD1 ntf\ufeff', max_size=40).map(str.encode))
def test_a_value_error_or_an_object(text: bytes) -> None:
    try:
        value = load_object(text)
    except ValueError:
        return
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"1", "not a JSON object"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": 1}{}', "not JSON"),
        (b'{"a": 1}\0', "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 01}', "not JSON"),
        (b'{"a": "\n"}', "not JSON"),
        (b'\xef\xbb\xbf{"a": 1}', "not JSON"),
        (b'{"\xc3\x28": 1}', "not UTF-8"),
        (b'{"\xed\xa0\x80": 1}', "not UTF-8"),
        (b'{"a": 1, "a": 1}', "a duplicate member"),
        (b'{"b": [{"a": 1, "\\u0061": 2}]}', "a duplicate member"),
        (b'{"a": NaN}', "a number that is not valid JSON"),
        (b'{"a": -Infinity}', "a number that is not valid JSON"),
        (b'{"a": 1e400}', "a number out of range"),
        (b'{"a": -1e400}', "a number out of range"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a": "\\ud83d"}', "an unpaired surrogate"),
        (b'{"a": "\\ude00\\ud83d"}', "an unpaired surrogate"),
        (b'{"a": ["\\uD83D"]}', "an unpaired surrogate"),
        (b'{"\\ud83d": 1}', "an unpaired surrogate"),
        (b'{"a":' * (DEPTH + 1) + b"1" + b"}" * (DEPTH + 1), "nested too deeply"),
        (b'{"a":' + b"[" * DEPTH + b"]" * DEPTH + b"}", "nested too deeply"),
        (b'{"a":' + b"[" * 500, "not JSON"),
        (b'{"a":' + b"[" * (BRACKETS - 1) + b"]" * (BRACKETS - 1) + b"}", "nested too deeply"),
        (b'{"a":' * BRACKETS + b"1" + b"}" * BRACKETS, "nested too deeply"),
        (b'{"a":' * 100_000, "too many objects and arrays"),
        (b'{"a": [' + b"{}," * BRACKETS + b"{}]}", "too many objects and arrays"),
    ],
)
def test_not_an_object(text: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}$"):
        load_object(text)


def test_the_deepest_and_the_widest() -> None:
    deepest = b'{"a":' * DEPTH + b"1" + b"}" * DEPTH
    assert load_object(deepest)
    assert (
        len(load_object(b"{" + b",".join(b'"%d": [{}]' % n for n in range(BRACKETS // 2 - 1)) + b"}"))
        == BRACKETS // 2 - 1
    )
    assert load_object(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_deep_nesting_far_down_the_stack() -> None:
    text = b'{"a":' * (BRACKETS - 1) + b"1" + b"}" * (BRACKETS - 1)

    def call(depth: int) -> None:
        if depth:
            call(depth - 1)
        else:
            load_object(text)

    with pytest.raises(ValueError, match="nested too deeply"):
        call(sys.getrecursionlimit() - 300)
