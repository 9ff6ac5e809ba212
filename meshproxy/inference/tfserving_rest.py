"""TensorFlow Serving's REST surface: what a request line asks of which model.

TensorFlow Serving matches targets without regard to case, decodes a name after it has matched it, and matches query and
fragment along with the path (model_servers/http_rest_api_util.cc, util/net_http/server/internal/evhttp_request.cc). So
two targets that look different can name one model. Here a target has exactly one reading: what is not spelled as the
API says is refused, and the forwarded target is rebuilt from what was read.

Refused although TensorFlow Serving would serve it:

- other case (`/V1/Models/`), padded versions (`/versions/007`), `.` and `..` as names, `;` in a name;
- percent-encoding of what needs none (RFC 3986 section 2.3: letters, digits, `-._~`): `fin%61nce` has no use but to
  make two parsers disagree;
- names that hold `\\`, `:`, `?`, `#`, `%` or `;` once decoded, and labels that hold `/`. Such a model can be called
  over gRPC;
- names with a `/` (`team%2Fresnet`) of which a part is empty, `.`, `..` or a word of the API. What is left names the
  same model to every server that decodes a name once, and nothing to one that decodes the path before it matches;
- `OPTIONS`, as a preflight is the proxy's (proxy/cross_origin.py); the metrics page by another method than GET.

Under `/v1/` everything wrong is 400, as with TensorFlow Serving, whatever the method; elsewhere it is 404.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NoReturn

from meshproxy.inference.call import Call, Chosen, ModelRef, Verb
from meshproxy.inference.names import BadName, read_name
from meshproxy.inference.surface import Operation, show_request
from meshproxy.inference.tfserving_version import INT64_MAX, write_number
from meshproxy.refusal import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.inference.body_scan import ScanLimits
    from meshproxy.inference.surface import Comparison, ExampleCounter, Signals, Tolerance

METRICS_PATH = b"/monitoring/prometheus/metrics"
"""The default of `MonitoringConfig.prometheus_config.path`."""

MEMO_ENTRIES = 1024
"""Targets that were rewritten: about 0.3 KB each."""

# The server's own expressions, less their (?i). Their order decides: `/v1/models/labels/metadata` is the metadata of a
# model called labels.
_INFERENCE = re.compile(
    rb"/v1/models/([^/:]+)(?:/versions/([0-9]+)|/labels/([^/:]+))?:(predict|classify|regress)", re.DOTALL
)
_READING = re.compile(rb"/v1/models(?:/([^/:]+))?(?:/versions/([0-9]+)|/labels/([^/:]+))?(/metadata)?", re.DOTALL)
_VERBS = {b"predict": Verb.PREDICT, b"classify": Verb.CLASSIFY, b"regress": Verb.REGRESS}
_TAILS = {
    **{verb: b":" + word for word, verb in _VERBS.items()},
    Verb.METADATA: b"/metadata",
    Verb.STATUS: b"",
}

# RFC 3986 section 3.3: pchar, less ":" (the server's regex) and ";" (parameters, to some).
_SEGMENT = re.compile(rb"(?:[A-Za-z0-9\-._~!$&'()*+,=@]|%[0-9A-Fa-f]{2})+")
_ESCAPE = re.compile(rb"%(..)", re.DOTALL)
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_DELIMITERS = frozenset(b"/\\:?#%;")
_NAME_DELIMITERS = _DELIMITERS - {0x2F}
_WORDS = frozenset({"versions", "labels", "metadata"})
_RESERVED = re.compile(rb"[^A-Za-z0-9\-._~]")


def find(metrics_paths: frozenset[bytes], method: bytes, target: bytes) -> Operation | None:
    """The operation of a request, from its method and its target in origin-form, as they came; None outside of `/v1/`
    and the metrics page.

    The signature is in the JSON body, which is not looked at: `ModelRef.signature` is None.

    Args:
        metrics_paths: where the metrics page is; several where there are several servers. None is under `/v1/`.
        method: of the request.
        target: of the request.

    Raises:
        Refusal: BAD_REQUEST, in TensorFlow Serving's words.
    """
    if method == b"POST":
        match = _INFERENCE.fullmatch(target)
        if match is not None:
            name, version, label, verb = match.groups()
            return _build(method, target, _VERBS[verb], name, version, label)
    elif method == b"GET":
        match = _READING.fullmatch(target)
        if match is not None:
            name, version, label, metadata = match.groups()
            if name is None:
                raise Refusal(Reason.BAD_REQUEST, "Missing model name in request.")
            verb = Verb.METADATA if metadata else Verb.STATUS
            return _build(method, target, verb, name, version, label)
        if target in metrics_paths:
            return Operation(Verb.METRICS, target, Call(Verb.METRICS))
    path = target.partition(b"?")[0]
    if target[:4].lower() == b"/v1/" or path == b"/v1/models" or path in metrics_paths:
        _refuse(method, target)
    return None


def _build(
    method: bytes, target: bytes, verb: Verb, name: bytes, version: bytes | None, label: bytes | None
) -> Operation:
    try:
        model = _decode(name, _NAME_DELIMITERS)
        if model in (".", ".."):
            raise BadName("is a dot segment")
        if "/" in model:
            _check_parts(model)
        if version is not None:
            number = int(version[:20])
            if number > INT64_MAX:
                raise Refusal(Reason.BAD_REQUEST, f"Failed to convert version: {version[:20].decode()} to numeric.")
            if version != b"%d" % number:
                raise BadName("has a version with a sign or leading zeros")
            ref = ModelRef(model, version=str(number))
        elif label is not None:
            ref = ModelRef(model, label=_decode(label, _DELIMITERS))
        else:
            ref = ModelRef(model)
    except BadName as bad:
        _refuse(method, target, f" (a name {bad})")
    return Operation(
        verb,
        build_target(verb, ref),
        Call(verb, (ref,)),
        rewrite_target=rewrite_target,
        count_examples=_COUNTS.get(verb),
        compare=_COMPARES.get(verb),
        read_signals=_SIGNALS.get(verb),
        keep_parts=_PARTS.get(verb),
    )


# What few sidecars do is imported when it is done (see tfserving_grpc).


def _keep_parts(verb: Verb, body: bytes, may_see: Callable[[str], bool]) -> bytes:
    from meshproxy.inference.tfserving_parts import keep_json

    return keep_json(verb, body, may_see)


_PARTS = {verb: partial(_keep_parts, verb) for verb in (Verb.STATUS, Verb.METADATA)}


def _count_examples(verb: Verb, encoding: bytes | None, limits: ScanLimits) -> ExampleCounter:
    from meshproxy.inference.tfserving_examples import count_json

    return count_json(verb)


def _compare(verb: Verb, first: bytes, second: bytes, tolerance: Tolerance) -> Comparison | None:
    from meshproxy.inference.tfserving_answers import compare

    return compare(first, second, False, verb, tolerance)


def _read_signals(verb: Verb, body: bytes) -> Signals | None:
    from meshproxy.inference.tfserving_answers import read_signals

    return read_signals(False, verb, body)


_COUNTS = {verb: partial(_count_examples, verb) for verb in _VERBS.values()}
_COMPARES = {verb: partial(_compare, verb) for verb in _VERBS.values()}
_SIGNALS = {verb: partial(_read_signals, verb) for verb in _VERBS.values()}


def rewrite_target(call: Call, chosen: Chosen) -> bytes:
    """The target that asks the same of another model or version. 0.2 us.

    `call` is what `find` returned: of one model, and of a verb that has a target.
    """
    return _rewritten(call.verb, chosen.model or call.models[0].name, chosen.version, chosen.label)


@lru_cache(maxsize=MEMO_ENTRIES)
def _rewritten(verb: Verb, name: str, version: str | None, label: str | None) -> bytes:
    return build_target(verb, ModelRef(name, version, label))


def build_target(verb: Verb, model: ModelRef) -> bytes:
    """The target that asks this of a model: `/v1/models/NAME[/versions/N|/labels/L]` and the suffix of the verb.

    Raises:
        KeyError: the verb has no target of this kind.
        Refusal: NO_ROUTE: it has no such version.
    """
    target = b"/v1/models/" + _encode(model.name)
    if model.version is not None:
        target += b"/versions/%d" % write_number(model.version, 0)
    elif model.label is not None:
        target += b"/labels/" + _encode(model.label)
    return target + _TAILS[verb]


def _decode(raw: bytes, delimiters: frozenset[int]) -> str:
    """A path segment -> the name that it encodes.

    Args:
        delimiters: what the name may not hold.

    Raises:
        BadName
    """
    if not _SEGMENT.fullmatch(raw):
        raise BadName("contains a character that is not allowed in a path segment")
    if b"%" in raw:
        for escape in _ESCAPE.findall(raw):
            byte = int(escape, 16)
            if byte in _UNRESERVED:
                raise BadName("has percent-encoded unreserved characters")
            if byte in delimiters:
                raise BadName("contains a path delimiter")
        raw = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), raw)
    return read_name(raw)


def _check_parts(name: str) -> None:
    """A name with a `/` must not be read as something else by a server that decodes the path first, or cleans it up.

    Raises:
        BadName
    """
    for part in name.split("/"):
        if part in ("", ".", "..") or part.lower() in _WORDS:
            raise BadName("has a part between slashes that is empty, a dot segment or a word of the API")


def _encode(name: str) -> bytes:
    return _RESERVED.sub(lambda match: b"%%%02X" % match[0][0], name.encode())


def _refuse(method: bytes, target: bytes, why: str = "") -> NoReturn:
    raise Refusal(Reason.BAD_REQUEST, f"Malformed request: {show_request(method, target)}{why}")
