"""The issuer that people log in at: its discovery document, its keys, and a code against an ID token.

OpenID Connect Core 1.0 sections 3.1 (authorization code flow) and 5.3 (UserInfo), RFC 7636 (PKCE), RFC 9207 (`iss` in
the answer). What comes is bounded in size and time, redirects are not followed, and every address that the issuer names
is https, or on this host. ID tokens are verified by the code that verifies those of requests (`identity/tokens.py`).
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import msgspec

from meshproxy.config.fields import ClaimPattern
from meshproxy.identity.certificates import CertificateError
from meshproxy.identity.claims import ClaimMatch, match_claim
from meshproxy.identity.jose import load_object
from meshproxy.identity.keys import IssuerKeys
from meshproxy.identity.named_context import read_authorities
from meshproxy.identity.tokens import Issuer, KeysWanted, TokenVerifier
from meshproxy.refusal import Refusal
from meshproxy.web.login_file import is_safe_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshproxy.identity.caller import Token
    from meshproxy.web.login_file import LoginSettings
    from meshproxy.web.pending import Pending

SECONDS = 10.0
"""Of one exchange with the issuer."""
ANSWER_BYTES = 262_144
DISCOVERY_LASTS = 300.0
"""Seconds that a discovery document is used."""
CALLBACK = "/login/callback"
CANNOT_ASK = "the issuer cannot be asked: the log of the control plane says why"
ERRORS = {
    "access_denied": "it was cancelled, or the issuer does not let this person in here",
    "invalid_client": "the issuer knows no such client with this secret, or wants it sent in another way: compare "
    "clientId, clientSecretFile and the registration of the client",
    "invalid_grant": "the code was used already, or is too old: log in again",
    "invalid_request": "the issuer does not take what this page asks for: compare the registration of the client",
    "invalid_scope": "the client may not ask for these scopes: compare `scopes` with its registration",
    "server_error": "the issuer has a problem of its own: try again",
    "temporarily_unavailable": "it took too long, or the issuer is busy: try again",
    "unauthorized_client": "the client is not registered for the authorization code flow",
    "unsupported_response_type": "the client is not registered for the authorization code flow",
}
"""What the codes of RFC 6749 sections 4.1.2.1 and 5.2 mean here. Of what an issuer says, nothing else is shown."""

_ANY = ClaimPattern(present=True)
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 section 2.1


class LoginFailed(Exception):
    """Nobody has logged in. The message says why, without quoting what the issuer sent.

    Attributes:
        detail: more, for the log: addresses and files are nothing for people who are not logged in.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class Discovery(msgspec.Struct, frozen=True):
    """What is used of the document (OpenID Connect Discovery 1.0 section 3, RFC 9207 section 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    end_session_endpoint: str | None = None
    """OpenID Connect RP-Initiated Logout 1.0 section 2.1."""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class Person(NamedTuple):
    """Who has logged in."""

    subject: str
    claims: Mapping[str, object]
    """Of the ID token, and those of the UserInfo that are not in it."""


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str
    access_token: str = ""


class _Error(msgspec.Struct, frozen=True):
    error: str


class Provider:
    """The issuer, as one client of it sees it."""

    def __init__(self, settings: LoginSettings) -> None:
        self._settings = settings
        self._discovery: tuple[Discovery, float] | None = None
        self._keys = IssuerKeys("login", settings.algorithms)
        issuer = Issuer("login", settings.issuer, frozenset({settings.client_id}), self._keys)
        self._verifier = TokenVerifier([issuer])

    async def authorization_url(self, pending: Pending) -> str:
        """Where a browser logs in. Raises LoginFailed."""
        discovery = await self._discover()
        parameters = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._settings.address + CALLBACK,
            "scope": " ".join(self._settings.scopes),
            "state": pending.state,
            "nonce": pending.nonce,
            "code_challenge": pending.challenge,
            "code_challenge_method": "S256",
        }
        return _with_query(discovery.authorization_endpoint, parameters)

    async def redeem(self, code: str, iss: str | None, pending: Pending) -> Person:
        """Whom a code is of, by the verified ID token that it gives. Raises LoginFailed.

        Args:
            code: as the browser brought it.
            iss: of which issuer it is, if the browser brought that, too.
            pending: what the login began with.
        """
        discovery = await self._discover()
        if iss != self._settings.issuer and (iss or discovery.authorization_response_iss_parameter_supported):
            raise LoginFailed("the answer is not of the issuer that the login began at")
        tokens = await self._exchange(discovery, code, pending)
        token = await self._verify(tokens.id_token, discovery)
        nonce, azp = token.claims.get("nonce"), token.claims.get("azp", self._settings.client_id)
        if nonce != pending.nonce:
            raise LoginFailed("the ID token is not of this login (nonce)")
        if azp != self._settings.client_id:
            raise LoginFailed("the ID token was issued to another client (azp)")
        if discovery.userinfo_endpoint is None or self._has_claims(token.claims):
            return Person(token.subject, token.claims)
        # Where an access token is issued, claims that a scope asks for come from there (OpenID Connect Core 1.0
        # section 5.4); many issuers put them into the ID token, too.
        more = await self._user_info(discovery.userinfo_endpoint, tokens.access_token, token.subject)
        return Person(token.subject, {**more, **token.claims})

    async def logout_url(self) -> str | None:
        """Where the session of a browser with the issuer ends, if the issuer has such a page. Raises LoginFailed."""
        endpoint = (await self._discover()).end_session_endpoint
        return _with_query(endpoint, {"client_id": self._settings.client_id}) if endpoint is not None else None

    def _has_claims(self, claims: Mapping[str, object]) -> bool:
        """Whether all are there that roles ask for."""
        names = {name for role in self._settings.roles for name in role.claims}
        return all(match_claim(claims, name, _ANY) is ClaimMatch.YES for name in names)

    async def _user_info(self, endpoint: str, access_token: str, subject: str) -> dict[str, object]:
        """The claims of a person. Raises LoginFailed."""
        if not _BEARER.fullmatch(access_token):
            raise LoginFailed("the issuer's answer has no access token, with which it would tell the person's claims")
        answer = await self._ask("GET", endpoint, {"authorization": f"Bearer {access_token}"})
        try:
            found = load_object(answer)
        except ValueError:
            raise LoginFailed("what the issuer tells of the person is no JSON: is its UserInfo to be signed?") from None
        if found.get("sub") != subject:  # section 5.3.2
            raise LoginFailed("the UserInfo is of somebody else")
        return found

    async def _exchange(self, discovery: Discovery, code: str, pending: Pending) -> _Tokens:
        """The tokens, not verified. Raises LoginFailed."""
        settings = self._settings
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": settings.address + CALLBACK,
            "code_verifier": pending.verifier,
        }
        headers = {"accept": "application/json"}
        secret = settings.current_secret()
        if not secret:
            form["client_id"] = settings.client_id
        elif "client_secret_basic" in discovery.token_endpoint_auth_methods_supported:
            # RFC 6749 section 2.3.1: both are encoded as in a form first.
            both = f"{quote(settings.client_id, safe='')}:{quote(secret, safe='')}"
            headers["authorization"] = f"Basic {base64.b64encode(both.encode()).decode()}"
        else:
            form |= {"client_id": settings.client_id, "client_secret": secret}
        answer = await self._ask("POST", discovery.token_endpoint, headers, form)
        try:
            return msgspec.json.decode(answer, type=_Tokens)
        except msgspec.MsgspecError:
            raise LoginFailed("the issuer's answer has no ID token") from None

    async def _verify(self, id_token: str, discovery: Discovery) -> Token:
        """Raises LoginFailed."""
        if not id_token.isascii():
            raise LoginFailed("the ID token is none")
        authorization = b"Bearer " + id_token.encode()
        if not self._keys.has_keys or not self._keys.wait(time.time()):
            await self._refresh(discovery)
        try:
            try:
                return self._verifier.verify(authorization, time.time())
            except KeysWanted:
                await self._refresh(discovery)
                return self._verifier.verify(authorization, time.time())
        except (Refusal, KeysWanted) as refusal:
            raise LoginFailed(f"the ID token is refused: {refusal}") from None

    async def _refresh(self, discovery: Discovery) -> None:
        """Fetch the keys of the issuer; those that were good stay in use if that fails."""
        self._keys.begin()
        try:
            document = await self._ask("GET", discovery.jwks_uri, {})
        except LoginFailed as error:
            self._keys.fail(str(error), time.time(), 0.5)
        except BaseException:
            self._keys.abandon(time.time())
            raise
        else:
            self._keys.take(document, time.time(), 0.5)

    async def _discover(self) -> Discovery:
        """Raises LoginFailed."""
        if self._discovery is not None and time.monotonic() < self._discovery[1]:
            return self._discovery[0]
        url = self._settings.issuer.removesuffix("/") + "/.well-known/openid-configuration"
        try:
            found = msgspec.convert(load_object(await self._ask("GET", url, {})), Discovery)
        except (ValueError, json.JSONDecodeError):  # msgspec.ValidationError is a ValueError
            raise LoginFailed("the issuer's discovery document cannot be read") from None
        if found.issuer != self._settings.issuer:
            raise LoginFailed("the discovery document is of another issuer: compare `issuer` with that of the document")
        needed = (found.authorization_endpoint, found.token_endpoint, found.jwks_uri)
        for endpoint in (*needed, found.userinfo_endpoint, found.end_session_endpoint):
            if endpoint is not None:
                _check_endpoint(endpoint)
        self._discovery = found, time.monotonic() + DISCOVERY_LASTS
        return found

    async def _ask(self, method: str, url: str, headers: dict[str, str], form: dict[str, str] | None = None) -> bytes:
        """The body of a good answer. Raises LoginFailed."""
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        try:
            trust = self._trust() if url.startswith("https:") else False
            async with (
                aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
                session.request(
                    method, url, data=form, headers=headers, allow_redirects=False, ssl=trust or True
                ) as answer,
            ):
                body = bytearray()
                async for piece in answer.content.iter_any():
                    body += piece
                    if len(body) > ANSWER_BYTES:
                        raise LoginFailed(f"the issuer's answer is larger than {ANSWER_BYTES} bytes")
                if answer.status != 200:
                    why = f": {found}" if (found := _error_in(bytes(body), answer.status)) else ""
                    raise LoginFailed(f"the issuer answers {answer.status} at {urlsplit(url).path}{why}")
                return bytes(body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise LoginFailed(CANNOT_ASK, _why(error)) from error

    def _trust(self) -> ssl.SSLContext:
        """Read anew, as the file may change. Raises LoginFailed."""
        path = self._settings.ca_file
        try:
            return ssl.create_default_context(cadata=read_authorities(path) if path is not None else None)
        except CertificateError as error:
            raise LoginFailed(CANNOT_ASK, error.message) from None


def _why(error: Exception) -> str:
    """In words, for whoever set this up."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is of another name or authority: compare `issuer` and `caFile` with it"
    if isinstance(error, TimeoutError):
        return f"no answer within {SECONDS:g} s"
    return getattr(error, "strerror", None) or type(error).__name__


def _check_endpoint(url: str) -> None:
    """Raises LoginFailed unless it is https, or http on this host."""
    if not is_safe_url(url):
        raise LoginFailed("the discovery document names an endpoint without TLS, or no URL")


def _with_query(endpoint: str, parameters: Mapping[str, str]) -> str:
    joint = "&" if urlsplit(endpoint).query else "?"
    return f"{endpoint}{joint}{urlencode(parameters)}"


def _error_in(body: bytes, status: int) -> str:
    """What an answer of the token endpoint says is wrong (RFC 6749 section 5.2); empty if that is nothing known."""
    try:
        code = msgspec.json.decode(body, type=_Error).error
    except (msgspec.MsgspecError, RecursionError):
        return ""
    # Keycloak's word for a wrong secret; the status is for that alone.
    return ERRORS.get("invalid_client" if (status, code) == (401, "unauthorized_client") else code, "")
