"""Tokens that are not in `authorization`: gateways put them into headers of their own, and browsers into cookies.

Who puts them there does not matter: a token is believed because of its signature. A place is of one issuer or several,
and the verifier refuses a token of theirs in any other place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from meshproxy.codec.headers import SPELLING, is_credential
from meshproxy.identity.tokens import credential

if TYPE_CHECKING:
    from meshproxy.proxy.headers import RequestHeaders


class TokenPlaces:
    """Headers and cookies that may hold a token."""

    __slots__ = ("_cookie", "_cookies", "_headers", "_spellings")

    def __init__(self, headers: Mapping[bytes, str], cookies: Mapping[str, str]) -> None:
        """
        Args:
            headers: names in lower case, and what the verifier knows the place by.
            cookies: the same for cookies, whose names have case.
        """
        self._headers = dict(headers)
        self._spellings = frozenset(name.translate(SPELLING) for name in headers)
        self._cookies = {name.encode(): place for name, place in cookies.items()}
        names = b"|".join(map(re.escape, self._cookies))
        self._cookie = re.compile(rb"(?:^|;)[ \t]*(%b)[ \t]*=([^;]*)" % names) if names else None

    def find(self, fields: RequestHeaders) -> RequestHeaders:
        """The fields with the token of such a place as their credential, and without it in what is forwarded. Without
        one `authorization` counts. A header that a server may read as such a place is no place, and not forwarded."""
        credentials: list[bytes] = []
        forward: list[tuple[bytes, bytes]] = []
        for name, value in (*fields.forward, *fields.tokens):
            if (place := self._headers.get(name)) is not None:
                credentials.append(credential(place, value))
            elif name == b"cookie" and self._cookie is not None:
                rest = self._take_cookies(value, credentials)
                if rest:
                    forward.append((name, rest))
            elif not is_credential(name) and name.translate(SPELLING) not in self._spellings:
                forward.append((name, value))
        if credentials:
            return fields.with_token(credentials, tuple(forward))
        if len(forward) < len(fields.forward):
            return fields.with_token(fields.authorization, tuple(forward))
        return fields

    def _take_cookies(self, value: bytes, credentials: list[bytes]) -> bytes:
        """What is left of a `cookie` field."""
        assert self._cookie is not None
        for name, token in self._cookie.findall(value):
            credentials.append(credential(self._cookies[name], token.strip().strip(b'"')))
        return self._cookie.sub(b"", value).strip(b"; ") if self._cookie.search(value) else value
