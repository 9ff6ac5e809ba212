"""Lines of the access log, in each of its formats, and of the audit trail -> the calls that they tell of.

What a line does not tell is left open in `Observed`: claims and headers are in no log, the signature is in the audit
trail only. A line that tells no call that a policy decides, or not enough of it, is a `Skipped`, so that a reader can
count it: nothing is guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import msgspec

from meshproxy.audit.chain import BEGINNING
from meshproxy.audit.lines import Record, read_line
from meshproxy.identity.caller import Caller, Token, workload_of
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.compare import Observed, Verdict
from meshproxy.refusal import Reason
from meshproxy.telemetry.log_encoding import MAX_CHARACTERS, UtcClock

LINE_BYTES = 1 << 20
"""Longer lines are of something else. One of ours is below 100 KiB."""
CALLERS = 100_000
"""Whose lines are recognised as those of one caller: 50 MB."""
_DENIED = (Reason.PERMISSION_DENIED.label, Reason.UNAUTHENTICATED.label)
_UNASKED = (Reason.MODEL_CHANGED.label, Reason.KEYS_UNAVAILABLE.label)


class Skipped(Enum):
    """Why a line tells no call that can be decided again."""

    UNREADABLE = "are no lines of an access log or audit log"
    OTHER = "tell of something else than a call"
    OUTBOUND = "are of outbound calls, which no policy decides"
    UNDECIDED = "were refused before the policy was asked (a bad request, a token that was not accepted)"
    SEVERAL_MODELS = "name several models, and not every one with its version"
    CUT = "have a name that was cut off, as it was too long"


@dataclass(frozen=True, slots=True)
class CallLine:
    """What a line tells."""

    time: str
    """RFC 3339 in UTC with microseconds: in the order of times if compared as text."""
    observed: Observed


class _Line(msgspec.Struct):
    """The fields of the access log, by their names in JSON, and what the audit trail tells beside them."""

    start_time: str | None = None
    direction: str | None = None
    refusal: str | None = None
    policy: str | None = None
    policy_audits: list[str] | str | None = None
    peer_spiffe_id: str | None = None
    jwt_issuer: str | None = None
    jwt_sub: str | None = None
    iam_role: str | None = None
    verb: str | None = None
    models: tuple[ModelRef, ...] | None = None
    """None: the line is of the access log."""
    model_count: int = 0
    model: str | None = None
    model_version: str | None = None
    path: str | None = None
    downstream_remote_address: str | None = None


class _EcsLine(msgspec.Struct):
    """The same in the Elastic Common Schema."""

    time: str = msgspec.field(name="@timestamp")
    direction: str | None = msgspec.field(name="network.direction", default=None)
    refusal: str | None = msgspec.field(name="error.type", default=None)
    policy: str | None = msgspec.field(name="rule.name", default=None)
    audits: str | None = msgspec.field(name="meshproxy.audits", default=None)
    peer_spiffe_id: str | None = msgspec.field(name="meshproxy.caller.spiffe_id", default=None)
    jwt_issuer: str | None = msgspec.field(name="meshproxy.caller.issuer", default=None)
    jwt_sub: str | None = msgspec.field(name="user.id", default=None)
    iam_role: str | None = msgspec.field(name="meshproxy.caller.iam_role", default=None)
    verb: str | None = msgspec.field(name="meshproxy.verb", default=None)
    model: str | None = msgspec.field(name="meshproxy.model.name", default=None)
    model_version: str | None = msgspec.field(name="meshproxy.model.version", default=None)
    path: str | None = msgspec.field(name="url.path", default=None)
    client: str | None = msgspec.field(name="client.address", default=None)
    port: int | None = msgspec.field(name="client.port", default=None)


_JSON = msgspec.json.Decoder(_Line)
_ECS = msgspec.json.Decoder(_EcsLine)
_TEXT = re.compile(r'\[([0-9T:.-]+Z)\] "\S+ (\S+) \S+" \d+ \S+ (\S+) ')
"""The beginning of a line in the text format: time, path, and who answered: the token of a refusal."""
_REMOTE = re.compile(r"(\S+) \S+ \S+ grpc_status=")
"""The address of the client is two fields before the first one that has a name."""
_UTC = UtcClock(0.0)
_NAMED = re.compile(r' ([a-z_]+)=("(?:[^"\\]|\\.)*"|\S+)')


def read_call_line(line: bytes) -> CallLine | Skipped:
    """What one line tells. Raises nothing, whatever is in it."""
    if len(line) > LINE_BYTES:
        return Skipped.UNREADABLE
    try:
        found = _read(line.strip())
        return found if isinstance(found, Skipped) else _told(found)
    except (ValueError, RecursionError):  # UnicodeDecodeError and msgspec's errors are ValueErrors
        return Skipped.UNREADABLE


def _read(line: bytes) -> _Line | Skipped:
    if line.startswith(b"["):
        return _read_text(line.decode("ascii"))
    if b'"@timestamp"' in line:
        return _read_ecs(_ECS.decode(line))
    if line.startswith(BEGINNING):
        return _read_audit(read_line(line))
    found = _JSON.decode(line)
    if found.start_time is None or found.direction is None or found.models is not None:
        return Skipped.UNREADABLE
    return found


def _read_audit(record: Record) -> _Line | Skipped:
    if record.decision is None:
        return Skipped.OTHER
    caller = record.caller
    return _Line(
        start_time=_UTC.format(record.time),
        direction=record.direction,
        refusal=record.reason,
        policy=record.rule,
        policy_audits=list(record.audits),
        peer_spiffe_id=caller.spiffe_id,
        jwt_issuer=caller.issuer,
        jwt_sub=caller.subject,
        iam_role=caller.iam_role,
        verb=record.verb,
        models=tuple([ModelRef(*model) for model in record.models]),
        model_count=record.model_count,
        path=record.path,
        downstream_remote_address=record.remote,
    )


def _read_ecs(line: _EcsLine) -> _Line | Skipped:
    if line.direction is None:
        return Skipped.UNREADABLE
    host = f"[{line.client}]" if line.client and ":" in line.client else line.client
    return _Line(
        start_time=line.time,
        direction=line.direction,
        refusal=line.refusal,
        policy=line.policy,
        policy_audits=line.audits,
        peer_spiffe_id=line.peer_spiffe_id,
        jwt_issuer=line.jwt_issuer,
        jwt_sub=line.jwt_sub,
        iam_role=line.iam_role,
        verb=line.verb,
        model=line.model,
        model_version=line.model_version,
        path=line.path,
        downstream_remote_address=f"{host}:{line.port or 0}" if host else None,
    )


def _read_text(line: str) -> _Line | Skipped:
    begin, remote = _TEXT.match(line), _REMOTE.search(line)
    if begin is None or remote is None:
        return Skipped.UNREADABLE
    named = {name: _unquoted(value) for name, value in _NAMED.findall(line, remote.end(1))}
    time, path, answered = begin.groups()
    return _Line(
        start_time=time,
        path=_unquoted(f'"{path}"'),
        direction=named.get("direction"),
        # `via_upstream` and `direct_response` have no hyphen, and refusals that matter here have one or are one word.
        refusal=None if answered in ("-", "via_upstream", "direct_response") else answered,
        policy=named.get("policy"),
        policy_audits=named.get("policy_audits"),
        peer_spiffe_id=named.get("peer_spiffe_id"),
        jwt_issuer=named.get("jwt_issuer"),
        jwt_sub=named.get("jwt_sub"),
        iam_role=named.get("iam_role"),
        verb=named.get("verb"),
        model=named.get("model"),
        model_version=named.get("model_version"),
        downstream_remote_address=_unquoted(remote[1]),
    )


def _unquoted(word: str) -> str | None:
    if word == "-":
        return None
    return msgspec.json.decode(word, type=str) if word.startswith('"') else word


def _told(line: _Line) -> CallLine | Skipped:
    """Of a line of either log."""
    if line.direction != "inbound":
        return Skipped.OUTBOUND if line.direction == "outbound" else Skipped.UNREADABLE
    is_audit = line.models is not None
    refusal = line.refusal
    if not line.policy or line.verb is None or refusal in _UNASKED:
        return Skipped.UNDECIDED
    caller = _caller(line)
    models = _audited_models(line) if line.models is not None else _logged_models(line)
    if isinstance(models, Skipped):
        return models
    if isinstance(caller, Skipped):
        return caller
    if any(_is_cut(name) for model in models for name in (model.name, model.version, model.label, model.signature)):
        return Skipped.CUT
    audits = line.policy_audits or ()
    return CallLine(
        line.start_time or "",
        Observed(
            caller,
            Call(Verb(line.verb), models),
            is_audit or not _is_grpc(line.path),
            _without_port(line.downstream_remote_address or ""),
            Verdict(refusal not in _DENIED, line.policy),
            tuple(audits.split(",") if isinstance(audits, str) else audits),
        ),
    )


def _caller(line: _Line) -> Caller | Skipped:
    if any(_is_cut(name) for name in (line.peer_spiffe_id, line.jwt_sub, line.iam_role)):
        return Skipped.CUT
    return _known_caller(line.peer_spiffe_id, line.jwt_issuer, line.jwt_sub or "", line.iam_role)


@lru_cache(maxsize=CALLERS)
def _known_caller(spiffe_id: str | None, issuer: str | None, subject: str, role: str | None) -> Caller:
    """Lines of one caller give one object: tokens are compared by identity."""
    workload = workload_of(spiffe_id) if spiffe_id else None
    token = Token(issuer, subject, {}, float("inf"), role) if issuer is not None else None
    return Caller(workload, token)


def _without_port(address: str) -> str:
    """Ports differ from connection to connection, and no policy is about them."""
    return f"{address.rpartition(':')[0]}:0" if ":" in address else address


def _is_cut(name: str | None) -> bool:
    return name is not None and len(name) > MAX_CHARACTERS and name.endswith("...")


def _audited_models(line: _Line) -> tuple[ModelRef, ...] | Skipped:
    models = line.models or ()
    return models if len(models) == line.model_count else Skipped.SEVERAL_MODELS


def _logged_models(line: _Line) -> tuple[ModelRef, ...] | Skipped:
    name = line.model
    if name is None:
        return ()
    if "," in name:
        return Skipped.SEVERAL_MODELS
    named = line.model_version
    if named is None:
        return (ModelRef(name),)
    return (ModelRef(name, label=named) if _is_label(named, line.path or "") else ModelRef(name, named),)


def _is_grpc(path: str | None) -> bool:
    return path is not None and re.fullmatch(r"/[A-Za-z0-9_.]+\.[A-Za-z0-9_]+/[A-Za-z0-9_]+", path) is not None


def _is_label(named: str, path: str) -> bool:
    """Whether what the access log has as version is a label. REST says it in the path. Over gRPC, versions of
    TensorFlow Serving are numbers; other surfaces have no labels."""
    if path.startswith("/tensorflow.serving."):
        return not (named.isascii() and named.isdigit())
    return re.search(r"/labels/[^/:]+(?::[a-z]+|/metadata)?$", path) is not None
