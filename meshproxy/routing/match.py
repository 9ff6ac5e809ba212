"""The `match` of a route."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.config.text_match import compile_text
from meshproxy.policy.compile import compile_subject
from meshproxy.policy.rules import SubjectMatch

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.config.fields import TextMatch
    from meshproxy.config.routes import Match
    from meshproxy.identity.caller import Caller


class Condition:
    """One of a route's matches: everything that it names must match."""

    __slots__ = ("_exact", "_others", "_subject")

    def __init__(self, match: Match, trust_domain: str) -> None:
        """
        Args:
            trust_domain: the mesh's own, of callers whose trust domain it does not name.
        """
        self._exact: list[tuple[bytes, bytes]] = []
        self._others: list[HeaderRule] = []
        for name, value in match.headers.items():
            if isinstance(value, str):
                self._exact.append((name.encode(), value.encode()))
            else:
                self._others.append(HeaderRule(name, value))
        self._subject = compile_subject(match.caller, trust_domain) if match.caller is not None else None

    def fits(self, headers: Headers, caller: Caller) -> bool:
        """Whether the request matches. A header that occurs twice matches nothing, whatever its values: which of them
        the model server would use is unknown. It is present, however."""
        for wanted in self._exact:
            name = wanted[0]
            if [field for field in headers if field[0] == name] != [wanted]:
                return False
        for rule in self._others:
            if not rule.fits(headers):
                return False
        return self._subject is None or self._subject.match(caller) is SubjectMatch.YES


class HeaderRule:
    """What one header must be like."""

    __slots__ = ("_fits", "_is_presence", "_name")

    def __init__(self, name: str, match: TextMatch) -> None:
        self._name = name.encode()
        self._fits = compile_text(match)
        self._is_presence = match.present is not None

    def fits(self, headers: Headers) -> bool:
        """Of a value that is not UTF-8, each byte that does not belong there is a character of its own."""
        values = [value for name, value in headers if name == self._name]
        if not values:
            return self._fits(None)
        if len(values) > 1 and not self._is_presence:
            return False
        return self._fits(values[0].decode("utf-8", "surrogateescape"))
