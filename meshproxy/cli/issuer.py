"""`meshproxy issuer`: a token issuer, for development."""

from __future__ import annotations

from meshproxy.devtools.issuer import command

__all__ = ["command"]
