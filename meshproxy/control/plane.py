"""What a control plane says of itself to those who rotate the root: by which authority it signs."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

SIGNS_ON = 86_400.0
"""Seconds for which a control plane goes on issuing after it has said last, where everybody can read it, by which
authority it signs. Without that end, nobody could ever know of one that is cut off that it does not sign any more."""
TELLS_EVERY = 10.0
"""Seconds after which it says again that nothing has changed."""
CLOCKS = 600.0
"""Seconds by which clocks may differ, at most."""


class Plane(msgspec.Struct, frozen=True):
    """A control plane that shares its authority with others through a Secret."""

    name: str
    signs_by: str
    """`root_rotation.in_force` of the authority that it has: what it knew before is recorded, and nothing else is given
    out any more."""
    confirmed: float
    """When it had read the Secret, seconds since the epoch."""
    lifetime: float
    """Of the certificates that it issues, in seconds."""

    @property
    def over(self) -> float:
        """When the last certificate has expired that it may have issued, if nothing is heard of it any more."""
        return self.confirmed + SIGNS_ON + self.lifetime + CLOCKS


class Planes(NamedTuple):
    """What the control planes say that share their authority."""

    entries: list[Plane]
    since: float = 0.0
    """Since when they have had a place to say it, in seconds since the epoch. Whoever has deleted it has made them all
    silent, until each speaks again."""
