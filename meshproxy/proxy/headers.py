"""What the proxy reads of a request's headers, and which of them are forwarded: both at once, cached by the whole list;
and what it says of the caller.

A keep-alive client repeats its headers, and the codecs share equal lists, so one look-up replaces the walk.
"""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import quote

from meshproxy.codec.events import Headers
from meshproxy.codec.grpc import is_grpc, parse_timeout, with_printable_message
from meshproxy.codec.headers import AUTHORIZATION, CREDENTIALS, OTHER_TARGET, REFUSAL_HEADER, REQUEST_ID, SPELLING
from meshproxy.identity.caller import Caller
from meshproxy.routing.deadline import REST_HEADER, rest_timeout
from meshproxy.routing.servers import HEADER as SERVER_HEADER

Known = TypeVar("Known")

CACHE_BYTES = 4_194_304
"""Memory that the lists of one cache take together: they are read before anybody knows who sent them."""
CACHED_BYTES = 8_192
"""A list that takes more is not remembered."""
LIST_BYTES = 1_024
FIELD_BYTES = 160
"""What a list takes by itself, and a field beyond its bytes."""
CALLER_HEADER = b"x-meshproxy-caller"
SUBJECT_HEADER = b"x-meshproxy-subject"
ISSUER_HEADER = b"x-meshproxy-issuer"
TRACE_STATE = b"tracestate"
TIMING_HEADER = b"x-server-timing"
"""`1` in a request asks for `server-timing`. It is forwarded, so that every sidecar on the way answers."""
B3_FIELDS = frozenset({b"b3", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-parentspanid", b"x-b3-sampled", b"x-b3-flags"})
"""Fields of traces in Zipkin's format (`telemetry.b3`)."""


class RequestHeaders:
    """The fields that decide something, and the rest."""

    __slots__ = (
        "authorization",
        "b3",
        "encoding",
        "forward",
        "forward_with_token",
        "is_grpc",
        "server",
        "timeout",
        "tokens",
        "trace_states",
        "wants_timing",
    )

    def __init__(self, headers: Headers) -> None:
        authorization: list[bytes] = []
        tokens: list[tuple[bytes, bytes]] = []
        encodings: list[bytes] = []
        timeouts: list[bytes] = []
        rest_timeouts: list[bytes] = []
        servers: list[bytes] = []
        content_types: list[bytes] = []
        trace_states: list[bytes] = []
        forward: list[tuple[bytes, bytes]] = []
        b3: list[tuple[bytes, bytes]] = []
        for field in headers:
            name, value = field
            spelled = name.translate(SPELLING)
            if spelled in CREDENTIALS:
                if name == AUTHORIZATION:
                    authorization.append(value)
                else:
                    tokens.append(field)
                continue
            if spelled in OTHER_TARGET or is_identity(name):
                continue
            if name == b"content-type":
                content_types.append(value)
            elif name == b"grpc-encoding":
                encodings.append(value)
            elif name == b"grpc-timeout":
                timeouts.append(value)
                continue
            elif name == REST_HEADER:
                rest_timeouts.append(value)
                continue
            elif name == SERVER_HEADER:
                servers.append(value)
                continue
            elif name == TRACE_STATE:
                trace_states.append(value)
                continue
            elif name in B3_FIELDS:
                b3.append(field)
            forward.append(field)
        self.b3: Headers = tuple(b3)
        """A trace in Zipkin's format; forwarded like other fields, but where B3 is configured."""
        self.is_grpc = len(content_types) == 1 and is_grpc(content_types[0])
        self.authorization = authorization
        """Every value: two are one too many, which the station that reads them must see."""
        self.encoding = encodings[-1] if encodings else None
        self.timeout: float | None = None
        """How long the client waits, in seconds: `grpc-timeout`, or what Envoy tells of REST calls. The field itself is
        not forwarded: the remaining time is written instead."""
        if self.is_grpc:
            self.timeout = parse_timeout(timeouts[0]) if len(timeouts) == 1 else None
        elif len(rest_timeouts) == 1:
            self.timeout = rest_timeout(rest_timeouts[0])
        self.server = servers[0] if len(servers) == 1 else None
        """Which ModelServer an application means (outbound)."""
        self.trace_states = trace_states
        """Not forwarded unchanged: their valid parts are in the trace context."""
        self.wants_timing = (TIMING_HEADER, b"1") in headers
        """`server-timing` is asked for."""
        self.forward: Headers = tuple(forward)
        self.tokens: Headers = tuple(tokens)
        """Other fields with a credential of the caller (`CREDENTIALS`)."""
        self.forward_with_token: Headers = (
            *self.forward,
            *tokens,
            *((AUTHORIZATION, value) for value in authorization),
        )

    def before(self, field: tuple[bytes, bytes]) -> RequestHeaders:
        """The same with one more field, which decides nothing and is forwarded."""
        more = RequestHeaders.__new__(RequestHeaders)
        for name in RequestHeaders.__slots__:
            setattr(more, name, getattr(self, name))
        more.forward = (*self.forward, field)
        more.forward_with_token = (*more.forward, *self.forward_with_token[len(self.forward) :])
        return more

    def with_token(self, credentials: list[bytes], forward: Headers) -> RequestHeaders:
        """The same with tokens from other fields instead of those of `authorization`, and what is forwarded without
        them."""
        other = RequestHeaders.__new__(RequestHeaders)
        for name in RequestHeaders.__slots__:
            setattr(other, name, getattr(self, name))
        other.authorization = credentials
        other.forward = forward
        return other


def is_identity(name: bytes) -> bool:
    """A header that we alone may set: a client that sends it would speak in our name. Every spelling that some server
    folds into it counts (`_`, `.` and others for `-`: CVE-2026-33433, CVE-2026-88011)."""
    if b"meshproxy" not in name and b"client" not in name:
        return False
    name = name.translate(SPELLING)
    return name.startswith(b"x-meshproxy-") or name == b"x-forwarded-client-cert"


class HeaderReader:
    """Reads request headers and cleans response headers, each list once."""

    __slots__ = ("_believed", "_requests", "_responses")

    def __init__(self) -> None:
        self._requests: _Cache[RequestHeaders] = _Cache()
        self._responses: _Cache[Headers] = _Cache()
        self._believed: _Cache[Headers] = _Cache()

    def read(self, headers: Headers) -> RequestHeaders:
        """What `headers` say."""
        known = self._requests.get(headers)
        if known is not None:
            return known
        if headers and headers[-1][0] == REQUEST_ID:  # which differs each time
            return self._read(headers[:-1]).before(headers[-1])
        return self._read(headers)

    def _read(self, headers: Headers) -> RequestHeaders:
        known = self._requests.get(headers)
        if known is None:
            known = RequestHeaders(headers)
            self._requests.keep(headers, known)
        return known

    def clean(self, headers: Headers, is_sidecar: bool = False) -> Headers:
        """A server's response headers without those that only we may send; another sidecar may say that it refused. A
        `grpc-message` (trailers-only) is printable."""
        cleaned = self._believed if is_sidecar else self._responses
        known = cleaned.get(headers)
        if known is None:
            known = tuple(
                field
                for field in with_printable_message(headers)
                if not is_identity(field[0]) or (is_sidecar and field[0] == REFUSAL_HEADER)
            )
            cleaned.keep(headers, known)
        return known


class _Cache(dict[Headers, Known]):
    """What lists of fields say, within `CACHE_BYTES`."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = CACHE_BYTES

    def keep(self, headers: Headers, value: Known) -> None:
        size = LIST_BYTES + sum([len(name) + len(content) + FIELD_BYTES for name, content in headers])
        if size <= CACHED_BYTES:
            self._left -= size
            if self._left < 0:
                self.clear()
                self._left = CACHE_BYTES - size
            self[headers] = value


def clean_trailers(headers: Headers, is_sidecar: bool) -> Headers:
    """The same as `HeaderReader.clean` for trailers, of which the codec has left out all others."""
    headers = with_printable_message(headers)
    if not is_sidecar and has_refusal(headers):
        headers = tuple([field for field in headers if field[0] != REFUSAL_HEADER])
    return headers


def has_refusal(headers: Headers) -> bool:
    """Whether another sidecar refused the call: asked of fields that are clean."""
    return any(name == REFUSAL_HEADER for name, _ in headers)


def identity_headers(caller: Caller) -> Headers:
    """The verified caller, for a model server that wants to know."""
    headers = []
    if caller.workload is not None:
        headers.append((CALLER_HEADER, caller.workload.spiffe_id.encode()))
    if caller.token is not None:
        headers.append((ISSUER_HEADER, caller.token.issuer.encode()))
        headers.append((SUBJECT_HEADER, quote(caller.token.subject, safe=_PRINTABLE).encode()))
    return tuple(headers)


_PRINTABLE = "!#$&'()*+,/:;=?@[]|"
"""Left as they are in a subject; `%`, controls and everything beyond ASCII are percent-encoded, and spaces: a server
strips those around a value, and would take one subject for another."""
