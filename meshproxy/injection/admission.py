"""AdmissionReview (admission.k8s.io/v1): what the API server asks about a new pod, and what it is told.

Whatever comes is answered with a review, and a refusal has words: the text of an HTTP error never reaches the user, and
with `failurePolicy: Ignore` it would let the pod pass without a sidecar.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import msgspec

from meshproxy.injection.inject import Injected, Refused, Skipped, inject
from meshproxy.injection.pod import Metadata
from meshproxy.injection.settings import Settings

VERSION = "admission.k8s.io/v1"
BYTES = 8 << 20
"""Of a review. The API server takes objects of up to 3 MiB, and may write each character of theirs with several."""
VALUES = 250_000
"""Of a review, at most: objects, and members and elements beyond the first of each. A pod that etcd takes (1.5 MiB) has
half of that at the very most. Strangers may ask, too, and 8 MiB of `[],` are 350 MB of lists and 18 s of work."""
WARNING_CHARACTERS = 256
"""The API server cuts longer ones once all are over 4 KiB together."""
WARNINGS = 8
MESSAGE_CHARACTERS = 4_096


class Outcome(StrEnum):
    """What became of a review."""

    INJECTED = "injected"
    SKIPPED = "skipped"
    REFUSED = "refused"
    UNREADABLE = "unreadable"
    """It is none, or not about a new pod."""


class Kind(msgspec.Struct, frozen=True):
    kind: str
    version: str
    group: str = ""


class _Object(msgspec.Struct, frozen=True):
    metadata: Metadata | None = None


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """What is asked. Fields that are not named are ignored."""

    uid: str
    kind: Kind
    operation: str
    namespace: str = ""
    sub_resource: str = ""
    object: Any = None


class Review(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: Literal["AdmissionReview"]
    request: Request


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, and what to write into the log about it."""

    outcome: Outcome
    body: bytes
    fields: dict[str, object] = field(default_factory=dict)


def too_large() -> Verdict:
    """For a review of more than `BYTES`."""
    return _unreadable("", f"the AdmissionReview is larger than {BYTES >> 20} MiB", 413)


def decide(body: bytes, settings: Settings) -> Verdict:
    """The verdict on one review. Never raises."""
    if _has_too_many_values(body):
        return _unreadable(_uid(body), f"the AdmissionReview has more than {VALUES} values", 413)
    try:
        review = msgspec.json.decode(body, type=Review)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _unreadable(_uid(body), f"this is no AdmissionReview of {VERSION}: {error}", 400)
    request = review.request
    if review.api_version != VERSION:
        text = f"expected an AdmissionReview of {VERSION}: write it in the webhook's admissionReviewVersions"
        return _unreadable(request.uid, text, 400)
    if request.kind != Kind("Pod", "v1") or request.sub_resource or request.operation != "CREATE":
        what = f"{request.operation} of {request.kind.kind}"
        text = f"the injector of meshproxy is for new pods, not for {what}: check the webhook's rules"
        return _unreadable(request.uid, text, 400)
    name = _called(request.object)
    fields: dict[str, object] = {"pod": name, "namespace": request.namespace}
    match inject(request.object, request.namespace, settings, in_place=True):
        case Injected(patch=patch, warnings=warnings):
            answer: dict[str, object] = {"uid": request.uid, "allowed": True}
            # A patch type without a patch, and the other way round, are failures of the call.
            answer |= {"patchType": "JSONPatch", "patch": base64.b64encode(msgspec.json.encode(patch)).decode()}
            if warnings:
                answer["warnings"] = [_line(f"meshproxy: {each}", WARNING_CHARACTERS) for each in warnings[:WARNINGS]]
            return Verdict(Outcome.INJECTED, _review(answer), fields)
        case Skipped(reason=reason):
            return Verdict(
                Outcome.SKIPPED, _review({"uid": request.uid, "allowed": True}), {**fields, "reason": reason}
            )
        case Refused(problems=problems):
            text = _line(f"{name} cannot have a sidecar: {'; '.join(problems)}", MESSAGE_CHARACTERS)
            answer = _denial(request.uid, text, 422, "Invalid")
            return Verdict(Outcome.REFUSED, _review(answer), {**fields, "reason": text})


def _unreadable(uid: str, text: str, code: int) -> Verdict:
    text = _line(text, MESSAGE_CHARACTERS)
    return Verdict(Outcome.UNREADABLE, _review(_denial(uid, text, code, "BadRequest")), {"reason": text})


def _denial(uid: str, text: str, code: int, reason: str) -> dict[str, object]:
    return {"uid": uid, "allowed": False, "status": {"code": code, "reason": reason, "message": text}}


def _review(response: dict[str, object]) -> bytes:
    return msgspec.json.encode({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response})


_STRING = re.compile(rb'(?s)"[^"\\]*+(?:\\.[^"\\]*+)*+"?')
"""One that does not end goes to the end: it is looked at once."""


def _has_too_many_values(body: bytes) -> bool:
    """Before any of them is made. Marks in strings are told from others only where there are many."""
    if _marks(body) <= VALUES:
        return False
    is_full = body.count(b'"') - body.count(b'\\"') > 4 * VALUES  # quotes: there are two strings in a member
    return is_full or _marks(_STRING.sub(b"", body)) > VALUES


def _marks(text: bytes) -> int:
    return text.count(b",") + text.count(b"{") + text.count(b"[")


class _WithUid(msgspec.Struct, frozen=True):
    uid: str = ""


class _WithRequest(msgspec.Struct, frozen=True):
    request: _WithUid = _WithUid()


def _uid(body: bytes) -> str:
    """Of a review that is not understood: the API server takes an answer with the uid of its question only."""
    try:
        return msgspec.json.decode(body, type=_WithRequest).request.uid[:128]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def _called(content: object) -> str:
    """What people know a pod by: it has no name yet when it is admitted."""
    try:
        metadata = msgspec.convert(content, _Object).metadata or Metadata()
    except msgspec.ValidationError:
        metadata = Metadata()
    name = metadata.name or (f"{metadata.generate_name}..." if metadata.generate_name else "without a name")
    return f"the pod {name}" + (f" of {metadata.owner.kind} {metadata.owner.name}" if metadata.owner.name else "")


def _line(text: str, limit: int) -> str:
    """On one line: a warning with a line break or a tab is dropped by the API server."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
