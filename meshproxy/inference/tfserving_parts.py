"""The parts of TensorFlow Serving's answers that list something: the versions of a status, the signatures of metadata.

What is left is made anew of what was read: nothing that is not understood gets through. Sources:
tensorflow_serving/apis/{get_model_status,get_model_metadata}.proto, google/protobuf/any.proto

    message GetModelStatusResponse { repeated ModelVersionStatus model_version_status = 1; }
    message ModelVersionStatus { int64 version = 1; ... }
    message GetModelMetadataResponse { ModelSpec model_spec = 1; map<string, google.protobuf.Any> metadata = 2; }
    message Any { string type_url = 1; bytes value = 2; }
    message SignatureDefMap { map<string, SignatureDef> signature_def = 1; }
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from meshproxy.codec.grpc import frame
from meshproxy.inference.call import Verb
from meshproxy.inference.protobuf import LENGTH, VARINT, FieldWalker, as_int64, malformed
from meshproxy.inference.unary import read_message, write_bytes
from meshproxy.refusal import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_PARTS = 256
"""Of one answer: the policy is asked about each."""
SIGNATURES = "signature_def"
"""The only metadata that there are."""
_TYPE = b"type.googleapis.com/tensorflow.serving.SignatureDefMap"

_FIRST, _SECOND = 1 << 3 | LENGTH, 2 << 3 | LENGTH
_VERSION = 1 << 3 | VARINT


class _Version(msgspec.Struct):
    version: str | int
    state: str = "UNKNOWN"
    status: dict[str, Any] = {}


class _Status(msgspec.Struct):
    model_version_status: list[_Version]


class _Signatures(msgspec.Struct):
    signature_def: dict[str, Any]


class _Metadata(msgspec.Struct):
    signature_def: _Signatures


class _Described(msgspec.Struct):
    metadata: _Metadata
    model_spec: dict[str, Any] = {}


def keep_json(verb: Verb, body: bytes, may_see: Callable[[str], bool]) -> bytes:
    """What is left of an answer over REST.

    Args:
        verb: `STATUS` or `METADATA`.
        body: of status 200.
        may_see: whether the caller may see the version, or the signature, of this name.

    Raises:
        Refusal: MALFORMED_MESSAGE, SCAN_LIMIT.
    """
    try:
        if verb is Verb.STATUS:
            status = msgspec.json.decode(body, type=_Status)
            _check(len(status.model_version_status))
            kept = [each for each in status.model_version_status if may_see(str(int(each.version)))]
            return msgspec.json.encode(_Status(kept))
        described = msgspec.json.decode(body, type=_Described)
        signatures = described.metadata.signature_def
        _check(len(signatures.signature_def))
        signatures.signature_def = {name: each for name, each in signatures.signature_def.items() if may_see(name)}
        return msgspec.json.encode(described)
    except (ValueError, RecursionError):  # msgspec's own are ValueErrors, too
        raise malformed("the answer is not the JSON that it should be") from None


def keep_message(verb: Verb, body: bytes, may_see: Callable[[str], bool]) -> bytes:
    """What is left of an answer over gRPC. As `keep_json`; raises UNSUPPORTED_ENCODING, too, if it is compressed."""
    message = read_message(body)
    return frame(_keep_versions(message, may_see) if verb is Verb.STATUS else _keep_metadata(message, may_see))


def _keep_versions(message: bytes, may_see: Callable[[str], bool]) -> bytes:
    walker = FieldWalker()
    found = list(walker.read(message, (_FIRST,), 0))
    _check(len(found))
    kept = []
    for _, status in found:
        assert isinstance(status, bytes)
        version = 0
        for _, number in walker.read(status, (_VERSION,), 1):
            assert isinstance(number, int)
            version = as_int64(number)
        if may_see(str(version)):
            kept.append(write_bytes(1, status))
    return b"".join(kept)


def _keep_metadata(message: bytes, may_see: Callable[[str], bool]) -> bytes:
    walker = FieldWalker()
    kept = []
    has_signatures = False
    for tag, field in walker.read(message, (_FIRST, _SECOND), 0):
        assert isinstance(field, bytes)
        if tag == _FIRST:
            kept.append(write_bytes(1, field))
            continue
        key, value = _entry(walker, field, 1)
        if key != SIGNATURES.encode():
            continue
        if has_signatures:
            raise malformed("there are two lists of signatures")  # `MOST_PARTS` is of both
        has_signatures = True
        kind, content = _entry(walker, value, 2)
        if kind != _TYPE:
            raise malformed("the metadata are of another type than they should be")
        signatures = _keep_signatures(walker, content, may_see)
        kept.append(
            write_bytes(2, write_bytes(1, key) + write_bytes(2, write_bytes(1, kind) + write_bytes(2, signatures)))
        )
    return b"".join(kept)


def _keep_signatures(walker: FieldWalker, message: bytes, may_see: Callable[[str], bool]) -> bytes:
    found = list(walker.read(message, (_FIRST,), 3))
    _check(len(found))
    kept = []
    for _, field in found:
        assert isinstance(field, bytes)
        name, signature = _entry(walker, field, 4)
        try:
            is_kept = may_see(name.decode())
        except UnicodeDecodeError:
            raise malformed("the name of a signature is not UTF-8") from None
        if is_kept:
            kept.append(write_bytes(1, write_bytes(1, name) + write_bytes(2, signature)))
    return b"".join(kept)


def _entry(walker: FieldWalker, message: bytes, depth: int) -> tuple[bytes, bytes]:
    """The fields 1 and 2, which are text and a message: of several the last counts, as everywhere."""
    key = value = b""
    for tag, field in walker.read(message, (_FIRST, _SECOND), depth):
        assert isinstance(field, bytes)
        if tag == _FIRST:
            key = field
        else:
            value = field
    return key, value


def _check(parts: int) -> None:
    """Raises Refusal."""
    if parts > MOST_PARTS:
        message = f"The answer lists more than {MOST_PARTS} versions or signatures: ask for one."
        raise Refusal(Reason.SCAN_LIMIT, message, limit="answer_parts")
