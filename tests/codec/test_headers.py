"""The grammar that both versions share."""

from __future__ import annotations

import re

import pytest

from meshproxy.codec.headers import (
    CREDENTIALS,
    FRAMING,
    IDENTITY_PREFIXES,
    NOT_IN_TRAILERS,
    ORIGIN_FORM,
    TOKEN,
    has_other_spelling,
    is_framing_alias,
    is_same_authority,
    may_be_trailer,
)

IS_TARGET = re.compile(ORIGIN_FORM).fullmatch
IS_TOKEN = re.compile(TOKEN + rb"+").fullmatch


@pytest.mark.parametrize(
    "target", [b"/", b"/v1/models/m:predict", b"/a%2Fb", b"/a?b=c/d?e", b"/a;b=c", b"/~-._!$&'()*+,=@"]
)
def test_targets(target: bytes) -> None:
    assert IS_TARGET(target)


@pytest.mark.parametrize(
    "target",
    [b"", b"a", b"*", b"/a b", b"/a#b", b"/%", b"/%2", b"/%zz", b"/[", b'/"', b"/\\", b"/^", b"/`", b"/{", b"/|"],
)
def test_no_targets(target: bytes) -> None:
    assert not IS_TARGET(target)


def test_every_byte_of_a_target() -> None:
    taken = {byte for byte in range(256) if IS_TARGET(b"/" + bytes((byte,)))}
    assert bytes(sorted(taken)) == (
        b"!$&'()*+,-./0123456789:;=?@ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"
    )


def test_every_byte_of_a_token() -> None:
    taken = {byte for byte in range(256) if IS_TOKEN(bytes((byte,)))}
    assert bytes(sorted(taken)) == (b"!#$%&'*+-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ^_`abcdefghijklmnopqrstuvwxyz|~")


def test_what_frames_a_message_or_is_a_credential_never_trails_it() -> None:
    assert NOT_IN_TRAILERS > FRAMING | CREDENTIALS
    assert b"x-meshproxy-" in IDENTITY_PREFIXES
    for name in NOT_IN_TRAILERS:
        assert not may_be_trailer(name)
        assert not may_be_trailer(name.replace(b"-", b"_"))


def test_names_that_may_trail_a_message() -> None:
    assert may_be_trailer(b"grpc-status")
    assert may_be_trailer(b"x_amzn.trace-id")
    assert not may_be_trailer(b"x_amzn.oidc-data")
    assert not may_be_trailer(b"x.forwarded_for")
    assert not may_be_trailer(b"x-meshproxy-refusal")


@pytest.mark.parametrize("mark", [bytes((byte,)) for byte in range(128) if IS_TOKEN(bytes((byte,))) and byte != 45])
def test_a_name_that_some_server_folds_into_one_that_frames(mark: bytes) -> None:
    for name in FRAMING:
        spelled = name.replace(b"-", mark)
        assert not is_framing_alias(name)
        assert is_framing_alias(spelled) == (b"-" in name and not mark.isalnum())
        assert bool(has_other_spelling(spelled)) == is_framing_alias(spelled)


@pytest.mark.parametrize(
    ("one", "other", "scheme", "expected"),
    [
        (b"A", b"a:80", b"http", True),
        (b"a:", b"a:80", b"HTTP", True),
        (b"a:443", b"a", b"Https", True),
        (b"[::80]", b"[::80]:80", b"http", True),
        (b"[::80]", b"[:]", b"http", False),
        (b"a:443", b"a", b"http", False),
        (b"a:80", b"a", b"https", False),
        (b"a:8080", b"a", b"http", False),
        (b"a:080", b"a", b"http", False),
    ],
)
def test_the_default_port_makes_no_other_authority(one: bytes, other: bytes, scheme: bytes, expected: bool) -> None:
    assert is_same_authority(one, other, scheme) is is_same_authority(other, one, scheme) is expected
