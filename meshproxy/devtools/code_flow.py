"""People who log in at the development issuer: the authorization code flow, with PKCE (OpenID Connect Core 1.0 section
3.1, RFC 7636). Nobody is asked for a password: whoever opens the page chooses who they are."""

from __future__ import annotations

import base64
import hashlib
import html
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from aiohttp import web

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class _Grant:
    """What a code is for."""

    client: str
    redirect: str
    challenge: str
    nonce: str | None
    person: str


class CodeFlow:
    """The codes of one issuer.

    Attributes:
        people: who can log in, with the claims in their ID tokens.
    """

    def __init__(
        self,
        clients: Collection[str],
        people: Mapping[str, Mapping[str, Any]],
        issuer: Callable[[], str],
        issue: Callable[[str, Mapping[str, Any]], str],
    ) -> None:
        """
        Args:
            clients: ids of clients.
            people: who can log in.
            issuer: its `iss`.
            issue: an ID token for a person, with claims beside the standard ones.
        """
        self._clients = clients
        self._issuer = issuer
        self._issue = issue
        self.people = people
        self._grants: dict[str, _Grant] = {}

    async def authorize(self, request: web.Request) -> web.Response:
        """GET /authorize: choose a person; with `person` in the query, go back with a code at once."""
        query = request.query
        redirect = query.get("redirect_uri", "")
        if query.get("client_id") not in self._clients or urlsplit(redirect).hostname not in LOOPBACK:
            raise web.HTTPBadRequest(text="no such client, or the page is not on this host\n")
        if query.get("response_type") != "code" or query.get("code_challenge_method") != "S256":
            raise web.HTTPBadRequest(text="only response_type=code, with code_challenge_method=S256\n")
        person = query.get("person", "")
        if person not in self.people:
            links = "".join(
                f'<li><a href="?{html.escape(urlencode({**query, "person": each}))}">{html.escape(each)}</a></li>'
                for each in self.people
            )
            return web.Response(
                text=f"<!doctype html><title>Who are you?</title><ul>{links}</ul>", content_type="text/html"
            )
        code = secrets.token_urlsafe(24)
        challenge, nonce = query.get("code_challenge", ""), query.get("nonce")
        self._grants[code] = _Grant(query["client_id"], redirect, challenge, nonce, person)
        back = urlencode({"code": code, "state": query.get("state", ""), "iss": self._issuer()})
        return web.Response(status=302, headers={"Location": f"{redirect}?{back}"})

    def redeem(self, client: str, form: Mapping[str, Any]) -> dict[str, object] | None:
        """The answer of the token endpoint for a code, which works once. None: it is refused."""
        grant = self._grants.pop(str(form.get("code", "")), None)
        digest = hashlib.sha256(str(form.get("code_verifier", "")).encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if grant is None or (grant.client, grant.redirect, grant.challenge) != (
            client,
            form.get("redirect_uri"),
            challenge,
        ):
            return None
        id_token = self._issue(grant.person, {"aud": client, "nonce": grant.nonce, **self.people[grant.person]})
        return {
            "access_token": secrets.token_urlsafe(24),
            "token_type": "Bearer",
            "expires_in": 300,
            "id_token": id_token,
        }
