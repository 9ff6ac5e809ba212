"""What is in the Secret of an authority.

The Secret is of type kubernetes.io/tls, as cert-manager makes them: `tls.crt` is the certificate of the authority that
signs, then those up to its root; `tls.key` is its key; `ca.crt` are the trusted roots. While the root is rotated,
`rotation.json` is the rotation (`root_rotation.RootRotation`), and the others are what it says at its step: one write
is one step, for everybody at once.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control.authority import Authority, AuthorityError
from meshproxy.control.root_rotation import RootRotation
from meshproxy.control.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

CERTIFICATE, KEY, ROOTS, ROTATION = "tls.crt", "tls.key", "ca.crt", "rotation.json"


@dataclass(frozen=True, slots=True)
class Content:
    """The authority that signs, with the roots that are trusted, and the rotation that is under way."""

    authority: Authority
    rotation: RootRotation | None = None


def read_content(data: Mapping[str, str], where: str) -> Content:
    """What the `data` of a Secret says.

    Args:
        data: in base64.
        where: for people.

    Raises:
        StoreError: it is no authority, or its parts contradict each other.
    """
    try:
        certificate, key, roots = (_entry(data, name) for name in (CERTIFICATE, KEY, ROOTS))
        authority = Authority.load(certificate, key, roots)
        if not data.get(ROTATION):
            return Content(authority)
        rotation = msgspec.json.decode(_entry(data, ROTATION), type=RootRotation)
        said = rotation.authority()
    except (AuthorityError, ValueError) as error:  # DecodeError is one
        raise StoreError(f"{where} is not an authority: {error}") from None
    if (said.chain_pem, said.bundle_pem) != (authority.chain_pem, authority.bundle_pem):
        raise StoreError(
            f"{where} contradicts itself: {CERTIFICATE} or {ROOTS} is not what {ROTATION} says. Who has written"
            f" another authority must remove {ROTATION}, which gives up the rotation"
        )
    return Content(authority, rotation)


def data_of(content: Content) -> dict[str, str | None]:
    """The `data` of the Secret; None: there is no such entry."""
    authority, rotation = content.authority, content.rotation
    entries = {CERTIFICATE: authority.chain_pem, KEY: authority.key_pem, ROOTS: authority.bundle_pem}
    texts: dict[str, str | None] = {name: base64.b64encode(text).decode() for name, text in entries.items()}
    kept = msgspec.json.encode(rotation) if rotation is not None else None
    texts[ROTATION] = base64.b64encode(kept).decode() if kept is not None else None
    return texts


def _entry(data: Mapping[str, str], name: str) -> bytes:
    """Raises ValueError."""
    text = data.get(name)
    if not text:
        raise ValueError(f"it has no {name}")
    return base64.b64decode(text)
