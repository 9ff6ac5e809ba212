"""What both versions of HTTP have in common: the grammar of names and targets (RFC 9110, RFC 3986), and fields with a
special meaning."""

from __future__ import annotations

import re

MAX_LENGTH = 2**63 - 1
"""Of a body or a chunk: larger values overflow in some peers (CVE-2021-32714)."""

FRAMING = frozenset(
    (
        b"host",
        b"content-length",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"te",
        b"upgrade",
        b"expect",
    )
)
"""Fields that are never part of `headers` (see `codec/events.py`)."""

SPELLING = bytes.maketrans(b"!#$%&'*+.^_`|~", b"-" * 14)
"""Servers fold `x_forwarded_for` and `x.forwarded.for` into one name (CVE-2026-33433); those that make CGI variables of
fields, as Apache and lighttpd do, everything but letters and digits."""
has_other_spelling = re.compile(rb"[!#$%&'*+.^_`|~]").search


def is_framing_alias(name: bytes) -> bool:
    """A name that some server may read as one of `FRAMING`, such as `content_length`: two servers would then find
    different ends of the message."""
    return name not in FRAMING and name.translate(SPELLING) in FRAMING


AUTHORIZATION = b"authorization"
CREDENTIALS = frozenset(
    (
        AUTHORIZATION,
        b"proxy-authorization",
        b"x-amzn-oidc-accesstoken",  # Application Load Balancers of AWS
        b"x-amzn-oidc-data",
        b"x-goog-iap-jwt-assertion",
        b"cf-access-jwt-assertion",  # Cloudflare Access
        b"x-forwarded-access-token",  # oauth2-proxy, the second behind nginx
        b"x-auth-request-access-token",
        b"x-ms-token-aad-access-token",  # Azure App Service
        b"x-ms-token-aad-id-token",
        b"x-ms-token-aad-refresh-token",
    )
)
"""Fields in which clients and the gateways of the field send tokens: who has one can speak as the caller."""


def is_credential(name: bytes) -> bool:
    """Whether a server may read a field as one of `CREDENTIALS`, by this name or by another spelling of it."""
    return name.translate(SPELLING) in CREDENTIALS


OTHER_TARGET = frozenset(
    (
        b"script-name",  # gunicorn cuts it off the path, where the peer is of this host: as the sidecar is
        b"path-info",
        b"x-original-url",  # IIS, and frameworks that run behind it: instead of the path (CVE-2018-14773)
        b"x-rewrite-url",
        b"x-http-method-override",  # Rack, Laravel, Symfony: instead of POST
        b"x-http-method",
        b"x-method-override",
    )
)
"""Fields in which servers look for another path or method than those of the request line, which were authorised."""

TRACE_PARENT = b"traceparent"
"""The trace context of a request (https://www.w3.org/TR/trace-context/): `RequestHead.trace`, not part of `headers`."""

REQUEST_ID = b"x-request-id"
"""A field that differs in every request of many clients: codecs keep the rest of a head without it."""
REQUEST_ID_BYTES = 64
REQUEST_ID_OCTETS = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_."
"""Of a value that is kept apart: more than any other one would have to be checked for."""

GRPC_TIMEOUT = b"grpc-timeout"
"""The time limit of a gRPC call."""
REST_TIMEOUT = b"x-envoy-expected-rq-timeout-ms"
"""That of a REST call in milliseconds, as gateways that are built on Envoy send it. No standard names such a header."""

NOT_IN_TRAILERS = FRAMING | {
    # RFC 9110 section 6.5.1: fields for routing, decoding, caching or authentication must come before the body.
    b"trailer",
    *CREDENTIALS,
    b"authentication-info",
    b"proxy-authentication-info",
    b"www-authenticate",
    b"proxy-authenticate",
    b"cookie",
    b"set-cookie",
    b"content-encoding",
    b"content-type",
    b"content-range",
    b"cache-control",
    b"pragma",
    b"range",
    b"max-forwards",
    b"if-match",
    b"if-none-match",
    b"if-modified-since",
    b"if-unmodified-since",
    b"if-range",
    b"location",
    b"retry-after",
    b"vary",
    b"age",
    b"date",
    b"expires",
    # Claims of other proxies about the caller.
    b"forwarded",
    b"x-real-ip",
}
IDENTITY_PREFIXES = (b"x-meshproxy-", b"x-forwarded-", b"x-amz-", b"x-envoy-")
"""Prefixes of fields with claims about the caller: never accepted in trailers."""
REFUSAL_HEADER = b"x-meshproxy-refusal"
"""Says that a sidecar refused the request, and why. It is no such claim: over HTTP/2 trailers may have it, too, and who
reads them has to know whether they are a sidecar's."""


def may_be_trailer(name: bytes) -> bool:
    """Whether a field may stand after the body, by this name and by every other that some server folds into it."""
    name = name.translate(SPELLING)
    return name not in NOT_IN_TRAILERS and not name.startswith(IDENTITY_PREFIXES)


TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_PCHAR = rb"A-Za-z0-9\-._~!$&'()*+,;=:@/"
_PERCENT = rb"%[0-9A-Fa-f]{2}"
ORIGIN_FORM = (
    rb"/[" + _PCHAR + rb"]*+(?:" + _PERCENT + rb"[" + _PCHAR + rb"]*+)*+"
    rb"(?:\?[" + _PCHAR + rb"?]*+(?:" + _PERCENT + rb"[" + _PCHAR + rb"?]*+)*+)?+"
)
"""RFC 3986 path and query: no fragment, no byte that only browsers forgive, `%` only before two hex digits."""


def is_same_authority(one: bytes, other: bytes, scheme: bytes) -> bool:
    """Whether two authorities are one: neither case nor the default port of the scheme, `http` or `https`, tells them
    apart (RFC 9110 section 4.2.3)."""
    port = b":443" if scheme.lower() == b"https" else b":80"
    return _without(port, one) == _without(port, other)


def _without(port: bytes, authority: bytes) -> bytes:
    return authority.lower().removesuffix(port).removesuffix(b":")
