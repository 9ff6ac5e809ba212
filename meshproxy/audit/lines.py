"""One line of the audit trail, read: who asked for what, what was decided, and by which rule.

A line is an event of the Open Cybersecurity Schema Framework in JSON (https://schema.ocsf.io, `OCSF_VERSION`). What
that has no field for is in `unmapped`; what is not about an event (writer, sequence number, hash of the line before) is
read by `chain`. Fields that are not known here are ignored: lines of later versions can be read.
"""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Annotated, NamedTuple

import msgspec

OCSF_VERSION = "1.8.0"
PRODUCT = "meshproxy"


class Kind(Enum):
    """What a line is about."""

    DENIED = "denied"
    """A call that authentication or authorization refused."""
    AUDITED = "audited"
    """A permitted call that an `audit` binding matched."""
    ADMIN = "admin"
    """A permitted call of an admin verb."""
    ALLOWED = "allowed"
    """Another permitted call."""
    CERTIFICATE_ISSUED = "certificate-issued"
    CERTIFICATE_REFUSED = "certificate-refused"
    DOCUMENTS_LOADED = "documents-loaded"
    """A control plane was started with them."""
    DOCUMENT_CREATED = "document-created"
    DOCUMENT_CHANGED = "document-changed"
    DOCUMENT_DELETED = "document-deleted"
    DOCUMENTS_REJECTED = "documents-rejected"
    """They have problems: the ones before stay in force."""
    AUTHORITY_CHANGED = "authority-changed"
    """Certificates are signed by another authority, or another root is trusted."""
    ROLLOUT_CHANGED = "rollout-changed"
    """A step up, a promotion, a rollback, a pause: `reason` says which."""
    ROLLOUT_REFUSED = "rollout-refused"
    """An order that was not taken."""
    TAP_OPENED = "tap-opened"
    """Somebody looks at calls as they end, through the control plane."""
    LOGIN = "login"
    """To the page of the mesh."""
    LOGIN_REFUSED = "login-refused"
    LOGOUT = "logout"
    STARTED = "started"
    """A writer begins a chain."""
    CONTINUED = "continued"
    """A writer goes on with the chain of one that has ended."""
    STOPPED = "stopped"
    CHECKPOINT = "checkpoint"
    DROPPED = "dropped"
    """Events have no line, since the sink took none."""


class Decision(Enum):
    """What became of a call."""

    ALLOW = "allow"
    DENY = "deny"


class BadLine(ValueError):
    """It is no line of an audit trail. The message says why."""


_WORD = re.compile(r"[\w.@|/:+=*~-]*")
_NAME = re.compile(r"[\w.@|/+=*~-]*")
"""Without the colon, behind which is the version."""


def quoted(text: str, plain: re.Pattern[str] = _WORD) -> str:
    """A text that callers choose as a word of a sentence: in quotes, if it could be taken for more of the sentence."""
    return text if plain.fullmatch(text) else json.dumps(text, ensure_ascii=False)


class Caller(NamedTuple):
    """Who called. All are None for an anonymous caller."""

    spiffe_id: str | None = None
    issuer: str | None = None
    """The issuer's name in `MeshConfig`."""
    subject: str | None = None
    iam_role: str | None = None

    def __str__(self) -> str:
        token = f"{self.issuer}:{quoted(self.subject or '')}" if self.issuer is not None else None
        names = [name for name in (self.spiffe_id, token, self.iam_role) if name is not None]
        return " as ".join(names) or "an anonymous caller"


class Model(NamedTuple):
    """A model as the caller named it."""

    name: str
    version: str | None = None
    label: str | None = None
    signature: str | None = None

    def __str__(self) -> str:
        name, version = quoted(self.name, _NAME), self.version or self.label
        return f"{name}:{quoted(version)}" if version else name


class Record(NamedTuple):
    """A line, read."""

    time: float
    """Seconds since the epoch."""
    kind: Kind
    caller: Caller
    """Of events that are no calls: who did it, as far as that is known."""
    decision: Decision | None
    """None: the event is no call."""
    verb: str | None
    """As in `ModelRole`; None if the call was refused before it was known."""
    models: tuple[Model, ...]
    """The first ones of `model_count`."""
    model_count: int
    rule: str | None
    """The binding that decided."""
    audits: tuple[str, ...]
    """The `audit` bindings that matched."""
    conditions: tuple[str, ...]
    """Those on address and headers that made the difference."""
    reason: str | None
    """Of a denial: the name of the refusal."""
    message: str | None
    subject: str | None
    """Of events that are no calls: what they are about, such as `ModelRole/reader`."""
    before: str | None
    """Of documents: the hash of the one before."""
    after: str | None
    by: str | None
    """Of documents and rollouts: who did it, as far as that can be known. `message` says how that is known."""
    remote: str | None
    """IP address and port of the other end."""
    direction: str | None
    path: str | None
    status: int | None
    """HTTP status of the answer."""
    grpc_status: int | None
    trace_id: str | None
    events: int
    """How many the line stands for: of `DROPPED` those that have no line."""


def read_line(line: bytes) -> Record:
    """Read one line, with or without its line feed. Raises BadLine."""
    try:
        return _record(_DECODER.decode(line))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadLine(f"not a line of an audit trail: {error}") from None


# The fields of OCSF that are read


class _Named(msgspec.Struct):
    name: str | None = None
    uid: str | None = None
    issuer: str | None = None


class _Actor(msgspec.Struct):
    user: _Named | None = None
    app_name: str | None = None
    idp: _Named | None = None
    session: _Named | None = None
    app_uid: str | None = None


class _ResourceData(msgspec.Struct):
    label: str | None = None
    signature: str | None = None


class _Resource(msgspec.Struct):
    name: str
    version: str | None = None
    data: _ResourceData | None = None


class _Api(msgspec.Struct):
    operation: str


class _Endpoint(msgspec.Struct):
    ip: str | None = None
    name: str | None = None
    port: int | None = None


class _Url(msgspec.Struct):
    path: str | None = None


class _HttpRequest(msgspec.Struct):
    url: _Url | None = None


class _HttpResponse(msgspec.Struct):
    code: int


class _Unmapped(msgspec.Struct):
    kind: Kind
    reason: str | None = None
    audits: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    model_count: int | None = None
    direction: str | None = None
    grpc_status: int | None = None
    subject: str | None = None
    before: str | None = None
    after: str | None = None


class _Line(msgspec.Struct):
    time: Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)]
    """Milliseconds since the epoch, up to the end of the year 9999."""
    unmapped: _Unmapped
    count: int = 1
    actor: _Actor | None = None
    api: _Api | None = None
    resources: tuple[_Resource, ...] = ()
    src_endpoint: _Endpoint | None = None
    http_request: _HttpRequest | None = None
    http_response: _HttpResponse | None = None
    policy: _Named | None = None
    trace: _Named | None = None
    message: str | None = None


_DECODER = msgspec.json.Decoder(_Line)
_NO_DATA = _ResourceData()
UNKNOWN = "unknown"
"""`api.operation`, which OCSF demands, of a call that was refused before its verb was known."""


def _record(line: _Line) -> Record:
    own = line.unmapped
    data = [resource.data or _NO_DATA for resource in line.resources]
    models = tuple(
        [
            Model(resource.name, resource.version, each.label, each.signature)
            for resource, each in zip(line.resources, data, strict=True)
        ]
    )
    operation = line.api.operation if line.api is not None else UNKNOWN
    return Record(
        time=line.time / 1_000,
        kind=own.kind,
        caller=_caller(line.actor),
        decision=_DECISIONS.get(own.kind),
        verb=operation if operation != UNKNOWN else None,
        models=models,
        model_count=own.model_count if own.model_count is not None else len(models),
        rule=line.policy.name if line.policy is not None else None,
        audits=own.audits,
        conditions=own.conditions,
        reason=own.reason,
        message=line.message,
        subject=own.subject,
        before=own.before,
        after=own.after,
        by=_by(line.actor) if own.kind not in _DECISIONS else None,
        remote=_remote(line.src_endpoint),
        direction=own.direction,
        path=line.http_request.url.path
        if line.http_request is not None and line.http_request.url is not None
        else None,
        status=line.http_response.code if line.http_response is not None else None,
        grpc_status=own.grpc_status,
        trace_id=line.trace.uid if line.trace is not None else None,
        events=line.count,
    )


_DECISIONS = {
    Kind.DENIED: Decision.DENY,
    Kind.AUDITED: Decision.ALLOW,
    Kind.ADMIN: Decision.ALLOW,
    Kind.ALLOWED: Decision.ALLOW,
}


def _caller(actor: _Actor | None) -> Caller:
    if actor is None:
        return Caller()
    subject = actor.user.uid if actor.user is not None else None
    issuer = actor.idp.name if actor.idp is not None else None
    return Caller(actor.app_uid, issuer, subject, actor.session.issuer if actor.session is not None else None)


def _by(actor: _Actor | None) -> str | None:
    if actor is None:
        return None
    return actor.app_name or (actor.user.name if actor.user is not None else None)


def _remote(endpoint: _Endpoint | None) -> str | None:
    if endpoint is None:
        return None
    if endpoint.ip is None:
        return endpoint.name
    host = f"[{endpoint.ip}]" if ":" in endpoint.ip else endpoint.ip
    return host if endpoint.port is None else f"{host}:{endpoint.port}"
