"""What ties the lines of a trail together: each holds the SHA-256 of the one before, and the writer's own are signed.

A line is `Chain.head(sequence, previous)` and a body, both in ASCII. The head is the same for every line of a chain but
for the sequence number and the hash, so a reader compares it instead of parsing it. The hash is that of a whole line,
its line feed included.

The first line of a chain holds 64 zeros. A writer that starts again goes on with the chain that it finds.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, NamedTuple

from meshproxy import __version__
from meshproxy.audit.lines import OCSF_VERSION, PRODUCT, Kind

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NOTHING_BEFORE = "0" * 64
CHECKPOINT_LINES = 1_000
"""At most so many lines of a chain are not covered by a signature, where there is a key."""
LINE_BYTES = 1 << 20
"""Of one line at most: 16 models with three names each, of 1,024 characters, of which each may take six bytes."""
BEGINNING = b'{"metadata":{"sequence":'
"""Of every line."""
OWN = frozenset({Kind.STARTED, Kind.CONTINUED, Kind.STOPPED, Kind.CHECKPOINT, Kind.DROPPED})
"""The writer's own lines."""
_PURPOSE = b"meshproxy audit trail, line without its signature:\n"
"""Before what is signed, so that a signature can be taken for nothing else."""

_HEAD = re.compile(
    rb'\{"metadata":\{"sequence":([1-9][0-9]{0,17}),'
    rb'("version":"[^"\\]{1,20}","log_name":"audit","log_provider":"((?:[^"\\]|\\.){1,400})",'
    rb'"product":\{[^{}]{1,200}\},"profiles":\[[a-z_",]{1,60}\]\},"unmapped":\{"chain":"([0-9a-f]{16})",'
    rb'"previous":")([0-9a-f]{64})","kind":"([a-z-]{1,30})"'
)
_SIGNATURE = re.compile(rb'"signature":"([0-9a-f]{128})","public_key":"([0-9a-f]{64})"')


class Head(NamedTuple):
    """What the head of a line says."""

    sequence: int
    """Counted from 1 in each chain."""
    constant: bytes
    """What lies between sequence number and hash."""
    writer: str
    chain: str
    """An id by chance: two chains of one writer differ in it."""
    previous: str
    """The SHA-256 of the line before, in lower-case hex digits."""
    kind: str


def read_head(line: bytes) -> Head | None:
    """The head of a line, with its kind; None if it has none."""
    match = _HEAD.match(line)
    if match is None:
        return None
    sequence, constant, writer, chain, previous, kind = match.groups()
    try:
        name = json.loads(b'"%b"' % writer)
    except ValueError:
        return None
    return Head(int(sequence), constant, name, chain.decode(), previous.decode(), kind.decode())


def constant_part(writer: str, chain: str) -> bytes:
    """`Head.constant` of the lines that this version writes."""
    product = {"name": PRODUCT, "vendor_name": PRODUCT, "version": __version__}
    return (
        f'"version":"{OCSF_VERSION}","log_name":"audit","log_provider":{json.dumps(writer)},'
        f'"product":{json.dumps(product, separators=(",", ":"))},"profiles":["security_control","trace"]}},'
        f'"unmapped":{{"chain":"{chain}","previous":"'
    ).encode("ascii")


def join(sequence: int, constant: bytes, previous: str, body: bytes) -> bytes:
    """One line. `body` begins with the quote that ends the hash, and `,"kind":`."""
    return b"%b%d,%b%b%b" % (BEGINNING, sequence, constant, previous.encode(), body)


def line_hash(line: bytes) -> str:
    """What the line after this one holds. `line`: with its line feed."""
    return hashlib.sha256(line).hexdigest()


# Signatures


class Signature(NamedTuple):
    """The signature of a line."""

    value: bytes
    public_key: bytes
    """32 bytes of Ed25519, as the line names it."""
    signed: bytes
    """What it is a signature of."""


NO_SIGNATURE = "0" * 128
"""In the body of a line that is to be signed."""


def sign(line: bytes, key: Ed25519PrivateKey) -> bytes:
    """The line with its signature in place of `NO_SIGNATURE`."""
    start, end = _place(line)
    return line[:start] + key.sign(_PURPOSE + line[:start] + line[end:]).hex().encode() + line[end:]


def read_signature(line: bytes) -> Signature | None:
    """The signature that a line has; None if it has none."""
    match = _SIGNATURE.search(line)
    if match is None:
        return None
    start, end = match.span(1)
    signed = _PURPOSE + line[:start] + line[end:]
    return Signature(bytes.fromhex(match[1].decode()), bytes.fromhex(match[2].decode()), signed)


def _place(line: bytes) -> tuple[int, int]:
    match = _SIGNATURE.search(line)
    assert match is not None, "a body without a place for a signature"
    return match.span(1)


def key_id(public_key: bytes) -> str:
    """A short name of a key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:16]
