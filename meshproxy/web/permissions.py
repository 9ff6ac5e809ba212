"""What may be seen, and who may see it: roles, which a login gets by its claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from meshproxy.identity.claims import ClaimMatch, match_claim


class Permission(Enum):
    """One thing that may be seen."""

    GRAPH = "graph"
    """Models, versions and their traffic; callers without their names."""
    CALLERS = "callers"
    """The names of callers, and the rules that apply to them."""
    DENIALS = "denials"
    """Calls that were refused; with the names of their callers only where those may be seen."""
    CERTIFICATES = "certificates"
    CONFIGURATION = "configuration"
    """Sidecars, and whether they have the documents in force."""


EVERYTHING = frozenset(Permission)


@dataclass(frozen=True, slots=True)
class Role:
    """A role of the page."""

    name: str
    sees: frozenset[Permission]
    claims: Mapping[str, str | int | bool]
    """All of which a token must have: each is equal to the value, or a list with it."""

    def fits(self, claims: Mapping[str, object]) -> bool:
        """Whether a verified token has the role. What cannot be compared does not fit."""
        return all(match_claim(claims, name, wanted) is ClaimMatch.YES for name, wanted in self.claims.items())


def roles_of(roles: Iterable[Role], claims: Mapping[str, object]) -> tuple[Role, ...]:
    """The roles of a verified token."""
    return tuple(role for role in roles if role.fits(claims))
