"""Certificates that a document holds, in PEM (RFC 7468)."""

from __future__ import annotations

import binascii
import re

from meshproxy.config.values import shown

CHARACTERS = 1 << 18
"""The most of one value: hundreds of authorities."""
_BLOCK = re.compile(r"^-----BEGIN CERTIFICATE-----$(.*?)^-----END CERTIFICATE-----$", re.DOTALL | re.MULTILINE)


def read_certificates(value: object) -> str:
    """Certificates in PEM and nothing else, as text. Whether they are authorities is found out when they are used.

    Raises:
        ValueError: they are not, or a private key is among them.
    """
    if not isinstance(value, str):
        raise ValueError(f"expected certificates in PEM, got {shown(value)}")
    if len(value) > CHARACTERS:
        raise ValueError(f"longer than {CHARACTERS} characters")
    if "PRIVATE KEY-----" in value:
        raise ValueError("holds a private key, which everybody has who can read this document: replace it")
    text = value.replace("\r\n", "\n")
    blocks = _BLOCK.findall(text)
    if not blocks or text.count("-----BEGIN ") != len(blocks):
        raise ValueError("expected certificates in PEM, each from -----BEGIN CERTIFICATE----- to its end")
    for number, block in enumerate(blocks, 1):
        try:
            binascii.a2b_base64("".join(block.split()), strict_mode=True)
        except ValueError:
            raise ValueError(f"certificate {number} is not valid PEM") from None
    return text
