"""A hash that keeps the calls of one client together when they are spread over versions or servers."""

from __future__ import annotations

from hashlib import blake2b


def stable_hash(*parts: bytes) -> int:
    """64 bits of the parts, kept apart by their lengths. The same in every process and every release of Python, so that
    all sidecars of a mesh choose alike. Not secret: a client that chooses the parts can choose the hash. 0.7 us.
    """
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(b"%d:%b" % (len(part), part))
    return int.from_bytes(digest.digest(), "big")
