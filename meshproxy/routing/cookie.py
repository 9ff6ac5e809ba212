"""Cookies that keep the calls of one client together (RFC 6265)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.config.servers import Cookie


def read_cookie(headers: Headers, name: str) -> bytes | None:
    """The value of a cookie, without the quotes that may be around it; None if there is none. Of several
    with one name the first that is not empty counts, which is the most specific one (RFC 6265 section 5.4)."""
    pattern = _pattern(name)
    for field, value in headers:
        if field == b"cookie" and (found := pattern.search(value)) is not None:
            return found[1]
    return None


@lru_cache(maxsize=64)
def _pattern(name: str) -> re.Pattern[bytes]:
    # Possessive: a hostile value costs its length, and no more.
    return re.compile(rb"(?:^|;)[ \t]*+" + re.escape(name.encode()) + rb'[ \t]*+=[ \t]*+"?([^;" \t]+)')


def _demands_tls(cookie: Cookie) -> bool:
    """Browsers take it with `Secure` only (RFC 6265bis sections 4.1.3 and 5.6). Then their connection is one of TLS, to
    a gateway in front of the sidecar."""
    return cookie.same_site == "None" or cookie.name.lower().startswith(("__secure-", "__host-"))


def write_cookie(cookie: Cookie, value: str, is_secure: bool) -> tuple[bytes, bytes]:
    """The field that makes a client send the cookie.

    Args:
        is_secure: the client's connection is one of TLS: the cookie is not sent over another.
    """
    parts = [f"{cookie.name}={value}", f"Path={cookie.path}"]
    if cookie.ttl:
        parts.append(f"Max-Age={max(1, round(cookie.ttl))}")
    parts += ["HttpOnly", f"SameSite={cookie.same_site}"]
    if is_secure or _demands_tls(cookie):
        parts.append("Secure")
    return b"set-cookie", "; ".join(parts).encode()
