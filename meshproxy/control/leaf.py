"""A certificate that is out, and what is known of its holder."""

from __future__ import annotations

import re

import msgspec

_NAME = re.compile(r"([0-9]{1,12})-[0-9a-f]{32}")


class Leaf(msgspec.Struct, frozen=True, omit_defaults=True):
    """A certificate of a workload, and what is known of its holder."""

    name: str
    """`control_api.leaf_name`: it says when the certificate expires."""
    spiffe_id: str
    authority: str
    """The `Authority.id` that has signed it; empty if that is not known."""
    roots: str = ""
    """`control_api.roots_digest` of the trust bundle that its holder has."""
    replaces: str = ""
    """The name of the certificate with which it was asked for, until this one has been seen in use."""
    is_replaced: bool = False
    """Its holder uses a later one."""
    sidecar: str = ""
    """The name of its document."""
    peer: str = ""
    """Where it was seen last, `address:port`."""

    @property
    def not_after(self) -> float:
        """When it expires, seconds since the epoch, rounded down."""
        return float(self.name.partition("-")[0])

    def is_valid(self, now: float) -> bool:
        """Whether somebody may still accept it."""
        return now < self.not_after + 1.0


def is_name(text: str) -> bool:
    """Whether it is a `Leaf.name`."""
    return _NAME.fullmatch(text) is not None
