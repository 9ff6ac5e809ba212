"""`cors` of a ModelRoute: which pages of other origins a browser lets call its models."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta

from meshproxy.config.fields import DurationOrZero, Part, one_of
from meshproxy.config.values import shown

ANY = "*"
_LABEL = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_HOST = rf"(?:(?:\*\.)?{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]{{2,45}}\])"
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]{{0,30}})://{_HOST}(:[0-9]{{1,5}})?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")


def read_origin(value: object) -> str:
    """An origin as browsers write it (RFC 6454 section 6.2), `*`, or one with `*.` before its host."""
    if value == ANY:
        return ANY
    expected = f'expected an origin such as "https://app.example", "https://*.app.example" or "*", got {shown(value)}'
    if not isinstance(value, str) or len(value) > 300:
        raise ValueError(expected)
    if value == "null":
        raise ValueError(
            '"null" is the origin of every sandboxed page and local file, so it names nobody: use "*" for all'
        )
    match = _ORIGIN.fullmatch(value)
    if match is None:
        raise ValueError(f"{expected}: scheme and host in lower case, the port if it is not the default, no path")
    scheme, port = match[1], match[2]
    if port is not None and (port == _DEFAULT_PORTS.get(scheme) or port[1:2] == "0" or int(port[1:]) > 65_535):
        raise ValueError(f"browsers never send {shown(value)}: leave out the default port")
    return value


def read_field_name(value: object) -> str:
    """The name of a header field in any case, in lower case; `*` for all."""
    if isinstance(value, str) and _FIELD_NAME.fullmatch(value):
        return value.lower()
    raise ValueError(f'expected the name of a header, such as "content-type", got {shown(value)}')


MethodWord = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "*"]
Method = Annotated[MethodWord, one_of(MethodWord)]
Origin = Annotated[str, Meta(extra={"read": read_origin, "words": "origin or *"})]
FieldName = Annotated[str, Meta(extra={"read": read_field_name, "words": "header name or *"})]


class Cors(Part, frozen=True):
    """Cross-origin resource sharing: which web pages may call the models from a browser, and read the responses. It
    grants no access to a model: every call is authorized as without it. Inbound REST only."""

    allow_origins: Annotated[tuple[Origin, ...], Meta(min_length=1)]
    """Origins of the pages, such as `https://app.example`, compared character for character; `https://*.app.example`
    is every host below `app.example`, `*` every origin. Prefixes and regular expressions are not offered:
    `https://app.example` is a prefix of `https://app.example.evil`."""
    allow_methods: tuple[Method, ...] = ("GET", "POST")
    """Methods that pages may use, besides those that need no preflight."""
    allow_headers: tuple[FieldName, ...] = ("authorization", "content-type")
    """Request headers that pages may set. `*`: all that a preflight asks for. The default is what a call with a token
    and a JSON body needs."""
    expose_headers: tuple[FieldName, ...] = ()
    """Response headers that pages may read, such as `x-meshproxy-refusal` and `retry-after`."""
    max_age: DurationOrZero | None = None
    """How long a browser may remember the answer to a preflight, rounded down to seconds. Left out: the browser decides
    (5 s)."""
    allow_credentials: bool = False
    """Pages may send cookies and TLS client certificates, and read the responses to that. Tokens that a page sets in
    `authorization` itself do not need it. Not together with `*`, in any of the lists."""

    def __post_init__(self) -> None:
        if self.allow_credentials:
            for name, values in (
                ("allowOrigins", self.allow_origins),
                ("allowMethods", self.allow_methods),
                ("allowHeaders", self.allow_headers),
                ("exposeHeaders", self.expose_headers),
            ):
                if ANY in values:
                    raise ValueError(f'"{name}" is "*" together with "allowCredentials": list what is allowed')
