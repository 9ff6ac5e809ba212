"""The two encodings that tokens and key sets are made of, read strictly: base64url and JSON.

Where parsers differ, an attacker chooses the one that suits him: Python's `json` takes the last of two equal members,
others the first; it takes NaN, UTF-16 and lone surrogates; base64 decoders skip what they do not know. All of that is
refused here, so that a text has one meaning or none.
"""

from __future__ import annotations

import binascii
import json
import math

DEPTH = 16
"""Objects and arrays within each other. Keycloak's claims reach 4."""
BRACKETS = 512
"""Objects and arrays together. Each costs a call: 4,000 empty ones in 12 KiB took 3.3 ms; a set of 64 keys has 200."""

BOM = b"\xef\xbb\xbf"
"""What some editors and shells put before a text. A document may begin with it (RFC 8259 section 8.1), not a token."""
_STANDARD = bytes.maketrans(b"-_", b"+/")
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def decode_base64url(text: bytes) -> bytes:
    """base64url without padding, in the one spelling that each value has (RFC 7515 section 2). Raises ValueError."""
    try:
        value = binascii.a2b_base64(text.translate(_STANDARD) + b"==="[: -len(text) % 4])
    except binascii.Error:
        raise ValueError("not base64url") from None
    # The decoder skips bytes outside the alphabet and ignores bits beyond the end: then this differs.
    if encode_base64url(value) != text:
        raise ValueError("not base64url")
    return value


def encode_base64url(value: bytes) -> bytes:
    """base64url without padding (RFC 7515 section 2)."""
    return binascii.b2a_base64(value, newline=False).translate(_URL_SAFE).rstrip(b"=")


def load_object(text: bytes) -> dict[str, object]:
    """A JSON object in UTF-8 (RFC 8259), with unique members, finite numbers, whole characters and bounded depth.

    Raises:
        ValueError: the text is anything else. Says nothing of the text.
    """
    brackets = text.count(b"{") + text.count(b"[")
    if brackets > BRACKETS:
        raise ValueError("too many objects and arrays")
    try:
        decoded = text.decode("utf-8")
        value = _DECODER.decode(decoded)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except RecursionError:  # when we are called from far down
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        # Also numbers with more digits than `int` converts. JSONDecodeError quotes the text: it must not get out.
        raise ValueError(error.args[0] if isinstance(error, _Refused) else "not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    # With fewer brackets the nesting cannot be too deep; without an escape every character is whole.
    if brackets > DEPTH or b"\\u" in text:
        _check(value, DEPTH)
    return value


def memory_bytes(text: bytes) -> int:
    """What an object takes in memory that was read from this text, at most: a character of four bytes makes all others
    of its string as large, and each member, item and list is an object of its own."""
    return 1_000 + 4 * len(text) + 100 * sum(map(text.count, (b",", b":", b"[", b"{")))


class _Refused(ValueError):
    """JSON that Python would take."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Refused("a duplicate member")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Refused("a number out of range")
    return number


def _no_constant(text: str) -> object:
    raise _Refused("a number that is not valid JSON")


def _check(value: object, depth: int) -> None:
    """Refuse nesting beyond `depth` and surrogates without a partner, which no UTF-8 can carry further."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("an unpaired surrogate") from None
    elif isinstance(value, dict | list):
        if not depth:
            raise ValueError("nested too deeply")
        if isinstance(value, dict):
            for name in value:
                _check(name, depth)
        for item in value.values() if isinstance(value, dict) else value:
            _check(item, depth - 1)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)
