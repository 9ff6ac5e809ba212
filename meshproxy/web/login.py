"""Logging in and out: the routes that begin and end sessions."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from aiohttp import web

from meshproxy.transport.bound_socket import format_address
from meshproxy.web.guard import own_path
from meshproxy.web.pending import LIFE, Pending, Seal
from meshproxy.web.permissions import roles_of
from meshproxy.web.provider import ERRORS, LoginFailed, Provider

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from meshproxy.web.guard import Guard, Viewer
    from meshproxy.web.login_file import LoginSettings
    from meshproxy.web.pages import Pages
    from meshproxy.web.sessions import Sessions

T = TypeVar("T")
logger = logging.getLogger(__name__)

CODE_CHARACTERS = 4_096
EXCHANGES, EXCHANGES_OF_ONE = 32, 8
"""With the issuer at once, in all and for one address, which may be that of a reverse proxy; whoever comes then is
asked to try again."""
EXCHANGE_SECONDS = 15.0
"""An issuer that is slower holds up nobody else."""


class LoginEvent(NamedTuple):
    """What became of a login, or the end of one."""

    result: str
    """`ok`, `failed`, `no-role` or `logout`."""
    peer: str
    """Address and port of the other end, which may be a reverse proxy."""
    message: str
    issuer: str | None = None
    subject: str | None = None
    """None: nobody knows who it was."""


class Login:
    """The login of one page."""

    def __init__(
        self,
        settings: LoginSettings,
        guard: Guard,
        sessions: Sessions,
        pages: Pages,
        tell: Callable[[LoginEvent], None],
    ) -> None:
        """
        Args:
            settings: of the operator.
            guard: whose cookies these are.
            sessions: where they begin.
            pages: for what a person is told.
            tell: is told of each login and logout.
        """
        self._settings = settings
        self._guard = guard
        self._sessions = sessions
        self._pages = pages
        self._tell = tell
        self._provider = Provider(settings)
        self._seal = Seal()
        self._exchanges: Counter[str] = Counter()
        """That are under way, by address."""

    async def begin(self, request: web.Request, viewer: Viewer) -> web.Response:
        """GET /login: to the issuer, with what binds its answer to this browser."""
        pending = Pending.new(own_path(request.query.get("next", "/")), time.time())
        try:
            url = await self._limited(request, self._provider.authorization_url(pending))
        except LoginFailed as error:
            return self._failed(request, str(error), error.detail)
        response = web.Response(status=302, headers={"Location": url})
        self._set_cookie(response, self._guard.login_cookie, self._seal.close(pending), LIFE)
        return response

    async def finish(self, request: web.Request, viewer: Viewer) -> web.Response:
        """GET /login/callback: the browser comes back with a code."""
        query = request.query
        pending = self._seal.open(request.cookies.get(self._guard.login_cookie, ""), time.time())
        state, code = query.get("state", ""), query.get("code", "")
        if pending is None or not hmac.compare_digest(state.encode(errors="replace"), pending.state.encode()):
            return self._failed(request, "this browser has begun no such login, or more than ten minutes ago")
        try:
            if "error" in query:
                raise LoginFailed(ERRORS.get(query["error"], "the issuer has refused it"))
            if not 0 < len(code) <= CODE_CHARACTERS:
                raise LoginFailed("the issuer has sent no code")
            person = await self._limited(request, self._provider.redeem(code, query.get("iss"), pending))
        except LoginFailed as error:
            return self._failed(request, str(error), error.detail)
        roles = roles_of(self._settings.roles, person.claims)
        if not roles:
            self._log("no-role", request, "has no role of the page", subject=person.subject)
            text = "You are known, but no role of this page is yours: ask whoever keeps the login file."
            return self._pages.message(403, "No role", text)
        # A new name whatever the browser had: a session that somebody else has put there is not taken over.
        self._sessions.end(request.cookies.get(self._guard.cookie, ""))
        names, sees = tuple(role.name for role in roles), frozenset().union(*(role.sees for role in roles))
        name = self._sessions.begin(person.subject, names, sees, time.monotonic())
        self._log("ok", request, f"as {', '.join(names)}", subject=person.subject)
        response = web.Response(status=303, headers={"Location": pending.path})
        self._set_cookie(response, self._guard.cookie, name, None)
        self._set_cookie(response, self._guard.login_cookie, "", 0)
        return response

    async def end(self, request: web.Request, viewer: Viewer) -> web.Response:
        """POST /logout."""
        form = await request.post()
        self._guard.check_form(request, viewer, str(form.get("token", "")))
        self._sessions.end(request.cookies.get(self._guard.cookie, ""))
        if viewer.session is not None:
            self._log("logout", request, "has ended the session", subject=viewer.session.subject)
        try:
            url = await self._limited(request, self._provider.logout_url())
        except LoginFailed:
            url = None  # it is told of where somebody logs in
        text = (
            "Your session has ended. The issuer may still know you, and let this browser in again without a question."
        )
        links = {"Log out at the issuer, too": url} if url is not None else {}
        response = self._pages.message(200, "Logged out", text, links=links)
        self._set_cookie(response, self._guard.cookie, "", 0)
        return response

    async def _limited(self, request: web.Request, exchange: Coroutine[Any, Any, T]) -> T:
        """Raises LoginFailed."""
        address = request.remote or ""
        if self._exchanges.total() >= EXCHANGES or self._exchanges[address] >= EXCHANGES_OF_ONE:
            exchange.close()
            raise LoginFailed("too many people are logging in: try again")
        self._exchanges[address] += 1
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                return await exchange
        except TimeoutError:
            raise LoginFailed(f"the issuer has not answered within {EXCHANGE_SECONDS:g} s") from None
        finally:
            self._exchanges[address] -= 1
            if not self._exchanges[address]:
                del self._exchanges[address]

    def _failed(self, request: web.Request, problem: str, detail: str = "") -> web.Response:
        self._log("failed", request, detail or problem)
        response = self._pages.message(400, "Not logged in", f"The login has failed: {problem}.")
        self._set_cookie(response, self._guard.login_cookie, "", 0)
        return response

    def _log(self, result: str, request: web.Request, said: str, subject: str | None = None) -> None:
        issuer = self._settings.issuer if subject is not None else None
        self._tell(LoginEvent(result, _peer(request), said, issuer, subject))
        level = logging.WARNING if result in ("failed", "no-role") else logging.INFO
        fields = {"detail": said, "subject": subject, "peer": request.remote}
        logger.log(level, "login: %s", result, extra={"fields": fields})

    def _set_cookie(self, response: web.Response, name: str, value: str, max_age: float | None) -> None:
        """None: until the browser is closed."""
        age = None if max_age is None else int(max_age)
        response.set_cookie(
            name, value, max_age=age, path="/", secure=self._settings.is_secure, httponly=True, samesite="Lax"
        )


def _peer(request: web.Request) -> str:
    """`10.0.0.1:40000`."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return format_address(peer) if peer is not None else request.remote or "unknown"
