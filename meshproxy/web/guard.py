"""Who is let in to a route, and what every answer says to a browser.

Without a login the page is for clients on this host, who see everything. With one it is for sessions alone, wherever
the client is: a reverse proxy on this host makes all clients look as if they were here.
"""

from __future__ import annotations

import hmac
import re
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import quote

from aiohttp import web

from meshproxy.web.permissions import EVERYTHING, Permission

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.web.login_file import LoginSettings
    from meshproxy.web.sessions import Session, Sessions

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
"""No inline script or style, nothing from elsewhere, in no frame (Content Security Policy Level 3)."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers send `Origin: null` with our own form
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Server": "meshproxy",  # not which versions of Python and aiohttp
}
STRICT_TRANSPORT = "max-age=31536000"
"""A year, where browsers reach the page over TLS (RFC 6797)."""

FORWARDED = frozenset(
    {"forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-server", "x-real-ip"}
)
"""Headers of requests that came through a reverse proxy (RFC 7239, RFC 9110 section 7.6.3, and what was before)."""
REFRESH = "x-meshproxy-refresh"
"""The header of a request that no person has made: a page that is open asks again. It keeps no session alive."""

_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@%?-][A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?")
PATH_CHARACTERS = 512


class Access(Enum):
    """For whom a route is that needs no permission."""

    EVERYBODY = "everybody"
    """Also without a session: the login, and files that say nothing of the mesh."""
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks."""

    sees: frozenset[Permission]
    session: Session | None = None


class Denied(Exception):
    """An answer instead of the one that was asked for."""

    def __init__(self, status: int, text: str, location: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.location = location
        """Where a browser goes to log in; empty: nowhere."""


class Guard:
    """Decides by the client and its session."""

    def __init__(
        self,
        is_local: Callable[[str, str], bool],
        login: LoginSettings | None,
        sessions: Sessions,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            is_local: whether a client is on this host, by its address and the Host that it asked for.
            login: None: there is no login.
            sessions: that logins have begun.
            now: seconds of a clock that is never set back.
        """
        self._is_local = is_local
        self._login = login
        self._sessions = sessions
        self._now = now
        is_secure = login is not None and login.is_secure
        prefix = "__Host-" if is_secure else ""
        self.cookie = f"{prefix}meshproxy-session"
        self.login_cookie = f"{prefix}meshproxy-login"
        self._headers = {**HEADERS, "Strict-Transport-Security": STRICT_TRANSPORT} if is_secure else HEADERS

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """A signal of aiohttp: before any answer is sent, also of an error."""
        response.headers.update(self._headers)
        response.headers.setdefault("Cache-Control", "no-store")

    def admit(self, request: web.Request, needs: Permission | Access) -> Viewer:
        """Who asks. Raises Denied unless they may."""
        if self._login is None:
            if not is_here(request, self._is_local):
                raise Denied(
                    403,
                    "there is no login: use a loopback connection and the host name localhost, or configure --login",
                )
            return Viewer(EVERYTHING)
        find = self._sessions.look if REFRESH in request.headers else self._sessions.use
        session = find(request.cookies.get(self.cookie, ""), self._now())
        if session is None:
            if needs is Access.EVERYBODY:
                return Viewer(frozenset())
            raise Denied(401, "log in first", f"/login?next={quote(request.path_qs, safe='')}")
        if isinstance(needs, Permission) and needs not in session.sees:
            roles = ", ".join(session.roles)
            raise Denied(403, f"your role ({roles}) does not see {needs.value}: ask whoever keeps the login file")
        return Viewer(session.sees, session)

    def is_over(self, request: web.Request) -> bool:
        """Whether the session of a stream that goes on has ended."""
        if self._login is None:
            return False
        return self._sessions.look(request.cookies.get(self.cookie, ""), self._now()) is None

    def check_form(self, request: web.Request, viewer: Viewer, token: str) -> None:
        """Raises Denied unless a form of our own page was sent (cross-site request forgery)."""
        site = request.headers.get("sec-fetch-site", "same-origin")
        origin = request.headers.get("origin")
        is_ours = site == "same-origin" and (origin is None or self._login is None or origin == self._login.address)
        expected = viewer.session.form_token if viewer.session is not None else ""
        if not (is_ours and expected and hmac.compare_digest(token.encode(errors="replace"), expected.encode())):
            raise Denied(403, "this form is not of your session: load the page again")


def is_here(request: web.Request, is_local: Callable[[str, str], bool]) -> bool:
    """Whether a request is of a client on this host, by its address and Host (`is_local`), and no reverse proxy says
    that it is another's. One that says nothing has to pass the Host on."""
    is_forwarded = any(name in FORWARDED for name in map(str.lower, request.headers))
    # Not `request.host`: without the header that is a name of this host, for which aiohttp before 3.14 waits for DNS.
    return not is_forwarded and is_local(request.remote or "", request.headers.get("host", ""))


def own_path(path: str) -> str:
    """A path on this host, with its query, to go to after a login; `/` for anything that could lead elsewhere."""
    return path if len(path) <= PATH_CHARACTERS and _PATH.fullmatch(path) else "/"
