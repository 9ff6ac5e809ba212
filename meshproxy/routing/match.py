"""The `match` of a route."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.policy.compile import compile_subject
from meshproxy.policy.rules import SubjectMatch

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.config.routes import Match
    from meshproxy.identity.caller import Caller


class Condition:
    """One of a route's matches: everything that it names must match."""

    __slots__ = ("_headers", "_subject")

    def __init__(self, match: Match, trust_domain: str) -> None:
        """
        Args:
            trust_domain: whose namespaces and service accounts the caller is compared with.
        """
        self._headers = tuple((name.encode(), value.encode()) for name, value in match.headers.items())
        self._subject = compile_subject(match.caller, trust_domain) if match.caller is not None else None

    def fits(self, headers: Headers, caller: Caller) -> bool:
        """Whether the request matches. A header that occurs twice matches nothing, whatever its values: which of them
        the model server would use is unknown."""
        for wanted in self._headers:
            name = wanted[0]
            if [field for field in headers if field[0] == name] != [wanted]:
                return False
        return self._subject is None or self._subject.match(caller) is SubjectMatch.YES
