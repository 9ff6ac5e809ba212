"""A line of the audit trail as a sentence in English."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from meshproxy.audit.lines import Decision, Kind

if TYPE_CHECKING:
    from meshproxy.audit.lines import Record

_EVENTS = {
    Kind.CERTIFICATE_ISSUED: "{subject} was given a certificate",
    Kind.CERTIFICATE_REFUSED: "{subject} was refused a certificate",
    Kind.DOCUMENTS_LOADED: "the control plane was started",
    Kind.DOCUMENT_CREATED: "{subject} was added",
    Kind.DOCUMENT_CHANGED: "{subject} was changed",
    Kind.DOCUMENT_DELETED: "{subject} was deleted",
    Kind.DOCUMENTS_REJECTED: "new documents were rejected",
    Kind.AUTHORITY_CHANGED: "the authority of the mesh changed",
    Kind.ROLLOUT_CHANGED: "{subject} {reason}{by}",
    Kind.ROLLOUT_REFUSED: "{subject}: the order to {reason} was refused{by}",
    Kind.TAP_OPENED: "calls are shown{by}",
    Kind.LOGIN: "{caller} logged in to the page",
    Kind.LOGIN_REFUSED: "{caller} was not let in to the page",
    Kind.LOGOUT: "{caller} logged out of the page",
    Kind.STARTED: "the trail",
    Kind.CONTINUED: "the trail",
    Kind.STOPPED: "the trail",
    Kind.CHECKPOINT: "a signature",
    Kind.DROPPED: "gap",
}
"""What precedes the message."""
_WORDS = {
    "Started": "was started",
    "Advanced": "took a step up",
    "Promoted": "was promoted",
    "RolledBack": "was rolled back",
    "Paused": "was paused",
    "Resumed": "went on",
    "Retried": "was begun anew",
    "Stalled": "is stalled",
    "CheckFailed": "failed a check",
    "RollbackAdvised": "should be rolled back",
}
"""Reasons of `Kind.ROLLOUT_CHANGED` (`rollout.steps`)."""
_SAID = {
    Kind.STARTED: " {message}",
    Kind.CONTINUED: " {message}",
    Kind.STOPPED: " {message}",
    Kind.CHECKPOINT: " {message}",
}
MOST_MODELS = 3
"""That a sentence names."""
DIGITS = 12
"""Of a hash that are shown."""


def moment(seconds: float) -> str:
    """`2026-11-30 12:44:43 UTC`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def sentence(record: Record) -> str:
    """It holds texts of callers as they are: what prints it escapes them."""
    return f"{moment(record.time)}: {_call(record) if record.decision is not None else _event(record)}."


def models(record: Record) -> str:
    """The models that a call names, as part of a sentence."""
    named = ", ".join(map(str, record.models[:MOST_MODELS]))
    more = record.model_count - min(len(record.models), MOST_MODELS)
    if not named:
        return "the model server as a whole"
    return f"{named} and {more} more" if more > 0 else named


def _call(record: Record) -> str:
    what = f"{record.verb} {models(record)}" if record.verb is not None else f"call {record.path or 'something'}"
    where = f" from {record.remote}" if record.remote else ""
    who = f"{record.caller}{where}"
    because = [f"by {record.rule}"] if record.rule else []
    if record.decision is Decision.DENY:
        told = f": {record.message.rstrip('.')}" if record.message else ""
        because = [*because, record.reason] if record.reason else because
        return f"{who} was denied to {what}{_in_parentheses([*because, *record.conditions])}{told}"
    result = f", which was answered with {record.status}" if record.status and record.status >= 400 else ""
    watched = [f"watched by {', '.join(record.audits)}"] if record.audits else []
    return f"{who} was allowed to {what}{_in_parentheses([*because, *watched, *record.conditions])}{result}"


def _event(record: Record) -> str:
    said = _EVENTS[record.kind].format(
        subject=record.subject or "somebody unknown",
        reason=_WORDS.get(record.reason or "", record.reason or "was changed"),
        by=f" by {record.by}" if record.by else "",
        caller=record.caller,
    )
    if record.before or record.after:
        hashes = [each[:DIGITS] if each else "nothing" for each in (record.before, record.after)]
        said += f" ({hashes[0]} to {hashes[1]})"
    message = (record.message or "").rstrip(".")
    if record.kind in _SAID:
        return said + _SAID[record.kind].format(message=message)
    where = f" at {record.remote}" if record.remote else ""
    return f"{said}{where}: {message}" if message else f"{said}{where}"


def _in_parentheses(parts: list[str]) -> str:
    return f" ({'; '.join(parts)})" if parts else ""
