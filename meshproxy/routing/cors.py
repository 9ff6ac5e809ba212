"""Cross-origin resource sharing, compiled: what a browser is told about a response (https://fetch.spec.whatwg.org/#cors-protocol).

The sidecar tells browsers what pages may do and enforces nothing by it: a request without a permitted origin is carried
like any other, since browsers send `origin` with calls of the same origin, too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.config.cors import Cors

ANY = "*"
ANY_ORIGIN = (b"access-control-allow-origin", b"*")
VARY = (b"vary", b"origin")
"""A cache must not give one origin the answer that another one got."""
_LABELS = re.compile(rb"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_NAMES = re.compile(rb"[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*[ \t]*")


class CorsPolicy:
    """What one `cors` says."""

    def __init__(self, document: Cors) -> None:
        origins = [origin.encode() for origin in document.allow_origins]
        self._is_open = ANY in document.allow_origins
        self._exact = frozenset(each for each in origins if b"*" not in each)
        # The scheme up to the host, and the end from the dot before the named part.
        self._below = tuple(
            (before, end) for before, star, end in (each.partition(b"*") for each in origins) if before and star
        )
        self._credentials: Headers = (
            ((b"access-control-allow-credentials", b"true"),) if document.allow_credentials else ()
        )
        exposed = ", ".join(document.expose_headers).encode()
        self._exposed: Headers = ((b"access-control-expose-headers", exposed),) if exposed else ()
        preflight = []
        if document.allow_methods:
            preflight.append((b"access-control-allow-methods", ", ".join(document.allow_methods).encode()))
        self._repeats_headers = ANY in document.allow_headers
        if document.allow_headers and not self._repeats_headers:
            preflight.append((b"access-control-allow-headers", ", ".join(document.allow_headers).encode()))
        if document.max_age is not None:
            preflight.append((b"access-control-max-age", b"%d" % document.max_age))
        self._preflight: Headers = tuple(preflight)

    def allows(self, origin: bytes) -> bool:
        """Whether pages of this origin may read responses."""
        if self._is_open or origin in self._exact:
            return True
        for before, end in self._below:
            size = len(before), len(origin) - len(end)
            if size[0] < size[1] and origin.startswith(before) and origin.endswith(end):
                return _LABELS.fullmatch(origin, *size) is not None
        return False

    def fields(self, origin: bytes | None) -> Headers:
        """The fields of a response to a request from this origin; None: it names none."""
        if self._is_open:
            return (ANY_ORIGIN, *self._exposed)
        if origin is None or not self.allows(origin):
            return (VARY,)
        return (*self._allow(origin), *self._exposed)

    def preflight_fields(self, origin: bytes, requested: bytes | None) -> Headers:
        """The fields of the answer to a preflight from an origin that is allowed.

        Args:
            requested: the value of `access-control-request-headers`.
        """
        repeated: Headers = ()
        if self._repeats_headers and requested is not None and _NAMES.fullmatch(requested):
            # `*` would not cover `authorization` (Fetch, "CORS non-wildcard request-header name").
            repeated = ((b"access-control-allow-headers", requested.strip()),)
        return (*self._allow(origin), *self._preflight, *repeated)

    def _allow(self, origin: bytes) -> Headers:
        if self._is_open:
            return (ANY_ORIGIN,)
        return ((b"access-control-allow-origin", origin), *self._credentials, VARY)


def share(headers: Headers, fields: Headers) -> Headers:
    """A response's `headers` with `fields`, and without what a model server says itself of other origins: browsers
    refuse a response with two values of `access-control-allow-origin`."""
    kept = tuple(field for field in headers if not field[0].startswith(b"access-control-"))
    if VARY in fields and any(name == b"vary" and _names_origin(value) for name, value in kept):
        fields = tuple(field for field in fields if field is not VARY)
    return (*kept, *fields)


def _names_origin(vary: bytes) -> bool:
    return any(each.strip().lower() in (b"origin", b"*") for each in vary.split(b","))
