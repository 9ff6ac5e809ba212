"""PEM files in the forms that OpenSSL, Envoy and Go read (RFC 7468, and what tools make of it): text before, between
and behind the blocks, in any encoding; CR LF; the labels of older OpenSSL; certificate and key in one file."""

from __future__ import annotations

import binascii
import re
import textwrap

_BEGIN, _END, _DASHES = b"-----BEGIN ", b"-----END ", b"-----"
_START = re.compile(rb"(?:\A|\xef\xbb\xbf|[\r\n]|-----)[ \t]*-----BEGIN ")
"""A line begins with it, or the end of a block does not end its line. Comments may mention it."""
_CERTIFICATES = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"})
"""The last is OpenSSL's, with settings of its own behind the certificate, which are left out."""
_PKCS8 = frozenset({b"PRIVATE KEY", b"Ed25519 PRIVATE KEY"})
"""The second is cfssl's, which OpenSSL does not know and Go reads."""
_SEQUENCE, _OCTET_STRING = 0x30, 0x04
_VERSION_1, _VERSION_2 = b"\x02\x01\x00", b"\x02\x01\x01"
"""Of PKCS#8, as the INTEGER that a key begins with."""


def read_certificates(content: bytes) -> list[bytes]:
    """All certificates of a file, DER, in their order. Blocks of other kinds are skipped.

    Raises:
        ValueError: a block has no end, or is not valid PEM.
    """
    found = []
    for label, block in _blocks(content):
        if label in _CERTIFICATES:
            try:
                found.append(_read_element(_decode(block)))
            except ValueError:
                raise ValueError(f"certificate {len(found) + 1} is not valid PEM") from None
    return found


def find_private_key(content: bytes) -> bytes | None:
    """The first private key of a file: PKCS#8, PKCS#1 (RSA) or SEC1 (EC), encrypted or not; its PEM block, written anew
    as OpenSSL reads it.

    Raises:
        ValueError: a block has no end, or is not valid PEM.
    """
    for label, block in _blocks(content):
        if label.endswith(b"PRIVATE KEY"):
            if b"Proc-Type" in block:  # the headers say how it is encrypted
                return _BEGIN + label + _DASHES + b"\n" + block.strip() + b"\n" + _END + label + _DASHES + b"\n"
            try:
                der = _decode(block)
                if label in _PKCS8:
                    return to_pem("PRIVATE KEY", _in_version_1(der))
                return to_pem(label.decode("latin-1"), der)
            except ValueError:
                raise ValueError("the private key is not valid PEM") from None
    return None


def split_der(content: bytes) -> list[bytes]:
    """The elements of concatenated DER, such as the certificates of a chain.

    Raises:
        ValueError: something is not a SEQUENCE, or is cut short.
    """
    found = []
    while content:
        found.append(_read_element(content))
        content = content[len(found[-1]) :]
    return found


def to_pem(label: str, der: bytes) -> bytes:
    """One block of RFC 7468: `CERTIFICATE`, `PRIVATE KEY`."""
    lines = textwrap.wrap(binascii.b2a_base64(der, newline=False).decode(), 64)
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def _blocks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Label and content of every block. Raises ValueError if one has no end."""
    found = []
    at = 0
    while (match := _START.search(content, at)) is not None:
        at = match.end()
        label = content[at : content.find(_DASHES, at)]
        end = content.find(_END + label + _DASHES, at)
        if end < 0:
            raise ValueError("a block has no end")
        found.append((label, content[at + len(label) + len(_DASHES) : end]))
        at = end
    return found


def _decode(block: bytes) -> bytes:
    """Raises ValueError."""
    lines = block.replace(b"\r\n", b"\n").split(b"\n")
    if b":" in block:  # headers of RFC 1421 end with an empty line
        lines = lines[lines.index(b"", 1) :]
    return binascii.a2b_base64(b"".join(b"".join(lines).split()), strict_mode=True)


def _in_version_1(der: bytes) -> bytes:
    """A PKCS#8 key without the public key and attributes that version 2 has (RFC 5958 section 2), as rcgen writes it
    for Ed25519: OpenSSL 3.0 reads version 1 only. Raises ValueError."""
    start, end = _bounds(der)
    body = der[start:end]
    if not body.startswith(_VERSION_2):
        return der
    rest = body[len(_VERSION_2) :]
    _, after_algorithm = _bounds(rest)
    _, after_key = _bounds(rest[after_algorithm:], _OCTET_STRING)
    body = _VERSION_1 + rest[: after_algorithm + after_key]
    size = len(body)
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return b"\x30" + (octets if size < 0x80 else bytes((0x80 | len(octets),)) + octets) + body


def _read_element(der: bytes) -> bytes:
    """The first element of `der`, a SEQUENCE. Raises ValueError."""
    return der[: _bounds(der)[1]]


def _bounds(der: bytes, tag: int = _SEQUENCE) -> tuple[int, int]:
    """Where the value of the first element of `der` begins and ends: one of this tag with a definite length (X.690
    section 8.1). Raises ValueError."""
    if len(der) < 2 or der[0] != tag:
        raise ValueError
    size, at = der[1], 2
    if size >= 0x80:
        at += size & 0x7F
        size = int.from_bytes(der[2:at], "big")
    if len(der) < at + size:
        raise ValueError
    return at, at + size
