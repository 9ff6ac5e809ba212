"""The host name that a client asks for in its TLS handshake (SNI, RFC 6066 section 3), for the access log.

Python passes it to a callback only. The callback runs once per connection and is too cheap to be measured beside the
2.4 ms of CPU of a handshake. A name that is not ASCII never reaches it: the ssl module fails the handshake and reports
the error to `sys.unraisablehook` (see `telemetry.process_log`).
"""

from __future__ import annotations

import re
import ssl

NAME_BYTES = 255
"""RFC 1035 section 2.3.4."""

_KEY = "_requested_server_name"
_HOST_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*+\.?", re.ASCII)
"""Letters, digits and hyphens (RFC 952), and the underscores of names in meshes."""


def keep_server_name(tls: ssl.SSLSocket | ssl.SSLObject | None, name: str | None, context: ssl.SSLContext) -> None:
    """Remember `name` with the connection (`SSLContext.sni_callback`). Returns None: the handshake continues."""
    if tls is not None and name is not None and len(name) <= NAME_BYTES:
        tls.__dict__[_KEY] = name


def requested_server_name(tls: ssl.SSLSocket | ssl.SSLObject) -> str:
    """The name, in lower case; empty if the client sent none, or one that is not a host name."""
    name = str(tls.__dict__.get(_KEY, "")).lower()
    return name if _HOST_NAME.fullmatch(name) else ""
