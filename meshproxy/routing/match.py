"""The `match` of a route."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.policy.compile import compile_subject
from meshproxy.policy.conditions import HeaderRule
from meshproxy.policy.rules import SubjectMatch

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.config.routes import Match
    from meshproxy.identity.caller import Caller


class Condition:
    """One of a route's matches: everything that it names must match."""

    __slots__ = ("_subject", "headers")

    def __init__(self, match: Match, trust_domain: str) -> None:
        """
        Args:
            trust_domain: the mesh's own, of callers whose trust domain it does not name.
        """
        self.headers = [HeaderRule(name, value) for name, value in match.headers.items()]
        self._subject = compile_subject(match.caller, trust_domain) if match.caller is not None else None

    def fits(self, headers: Headers, caller: Caller) -> bool:
        """Whether the request matches. What cannot be evaluated does not: a header that occurs twice, or also in a
        spelling that some servers take for the name. It is present, however."""
        for rule in self.headers:
            if rule.match(headers) is not True:
                return False
        return self._subject is None or self._subject.match(caller) is SubjectMatch.YES
