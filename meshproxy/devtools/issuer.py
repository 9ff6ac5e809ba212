"""A token issuer for development and tests: OpenID discovery, a key set that rotates, client credentials, and people
who log in (`code_flow.py`).

It can be used without its server (`token`, `jwks`), simulate an outage, and sign invalid tokens, so that tests can show
them to a proxy. Its signatures come from PyJWT; header and payload can be any bytes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import get_default_algorithms

from meshproxy.devtools.code_flow import CodeFlow

DEFAULT_AUDIENCE = "models"
LIFETIME = 300.0

_ALGORITHMS = get_default_algorithms()


@dataclass(frozen=True)
class Client:
    """A client of the issuer (RFC 6749 section 4.4): its secret and the claims in its tokens."""

    secret: str
    claims: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SigningKey:
    """A private key under its id."""

    kid: str
    algorithm: str
    private: Any

    @classmethod
    def generate(cls, kid: str, algorithm: str) -> SigningKey:
        """A 2,048-bit key for RS256, which takes a tenth of a second, or a P-256 key for ES256."""
        if algorithm == "RS256":
            return cls(kid, algorithm, rsa.generate_private_key(65537, 2048))
        return cls(kid, algorithm, ec.generate_private_key(ec.SECP256R1()))

    def public_jwk(self) -> dict[str, object]:
        """RFC 7517 section 4."""
        jwk = _ALGORITHMS[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        jwk.pop("key_ops", None)
        return {**jwk, "kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def sign(self, message: bytes) -> bytes:
        return _ALGORITHMS[self.algorithm].sign(message, self.private)


class DevelopmentIssuer:
    """One issuer, with its keys in memory.

    Attributes:
        issuer: the `iss` of its tokens; with a server, its URL.
        keys_url: where the server has the key set.
        keys: its keys; the newest signs, all are published.
        is_down: the server answers 503 to everything.
        requests: paths that were asked for, in order.
        login: of people.
    """

    def __init__(
        self,
        issuer: str = "https://login.dev.example",
        *,
        audience: str = DEFAULT_AUDIENCE,
        algorithm: str = "RS256",
        clients: Mapping[str, Client] | None = None,
        people: Mapping[str, Mapping[str, Any]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """A new issuer with one key.

        Args:
            issuer: its `iss`.
            audience: the `aud` of its tokens, unless asked for another.
            algorithm: RS256 or ES256.
            clients: who may ask the server for tokens, by client id.
            people: who can log in, with the claims in their ID tokens.
            clock: seconds since the epoch.
        """
        self.issuer = issuer
        self.audience = audience
        self.algorithm = algorithm
        self.clients = dict(clients or {})
        self._clock = clock
        self.keys: list[SigningKey] = []
        self.is_down = False
        self.requests: list[str] = []
        self.login = CodeFlow(self.clients, people or {}, lambda: self.issuer, self._id_token)
        self._made = 0
        self.rotate()

    @property
    def keys_url(self) -> str:
        return f"{self.issuer.rstrip('/')}/keys"

    def rotate(self, *, keep: int = 1) -> SigningKey:
        """Sign with a new key from now on; `keep` old ones stay published."""
        self._made += 1
        key = SigningKey.generate(f"key-{self._made}", self.algorithm)
        self.keys = [*self.keys[len(self.keys) - keep :], key] if keep else [key]
        return key

    def jwks(self) -> dict[str, object]:
        """The public keys (RFC 7517 section 5)."""
        return {"keys": [key.public_jwk() for key in self.keys]}

    def claims(self, subject: str, *, expires_in: float = LIFETIME, **claims: object) -> dict[str, object]:
        """The claims of a token issued now (RFC 9068 section 2.2). A claim that is given as None is left out."""
        now = int(self._clock())
        standard = {"iss": self.issuer, "sub": subject, "aud": self.audience, "iat": now, "exp": int(now + expires_in)}
        if expires_in <= 0:
            standard["iat"] = int(now + expires_in - LIFETIME)
        return {name: value for name, value in {**standard, **claims}.items() if value is not None}

    def token(self, subject: str = "quoter", *, expires_in: float = LIFETIME, **claims: object) -> str:
        """An access token (RFC 9068), signed with the newest key.

        Args:
            subject: `sub`.
            expires_in: seconds from now; below 0 it expired then.
            claims: beside the standard ones or instead of them; None leaves one out.
        """
        return self.sign({}, self.claims(subject, expires_in=expires_in, **claims))

    def _id_token(self, person: str, claims: Mapping[str, Any]) -> str:
        return self.sign({"typ": "JWT"}, self.claims(person, **claims))

    def sign(
        self, header: Mapping[str, object] | bytes, payload: Mapping[str, object] | bytes, key: SigningKey | None = None
    ) -> str:
        """A compact JWS over any header and payload (RFC 7515 section 7.1).

        Args:
            header: members beside or instead of `alg`, `kid` and `typ` (None leaves one out), or all of it as bytes.
            payload: claims, or bytes.
            key: instead of the newest.
        """
        key = key or self.keys[-1]
        if not isinstance(header, bytes):
            members = {"alg": key.algorithm, "kid": key.kid, "typ": "at+jwt", **header}
            header = json.dumps({name: value for name, value in members.items() if value is not None}).encode()
        if not isinstance(payload, bytes):
            payload = json.dumps(payload).encode()
        message = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload))
        return b".".join((message, base64.urlsafe_b64encode(key.sign(message)).rstrip(b"="))).decode()

    def discovery(self) -> dict[str, object]:
        """The OpenID configuration (OpenID Connect Discovery 1.0 section 3)."""
        return {
            "issuer": self.issuer,
            "jwks_uri": self.keys_url,
            "authorization_endpoint": f"{self.issuer.rstrip('/')}/authorize",
            "token_endpoint": f"{self.issuer.rstrip('/')}/token",
            "grant_types_supported": ["authorization_code", "client_credentials"],
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [self.algorithm],
        }

    @classmethod
    @asynccontextmanager
    async def serve(
        cls,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        name: str | None = None,
        audience: str = DEFAULT_AUDIENCE,
        algorithm: str = "RS256",
        clients: Mapping[str, Client] | None = None,
        people: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> AsyncIterator[DevelopmentIssuer]:
        """An issuer behind HTTP, or HTTPS with `tls`, until the end of the block.

        Args:
            host: the address to listen on.
            port: 0 takes any free one.
            tls: a server context.
            name: the host in its URL, if not the address; what a certificate is for.
            audience: as for `DevelopmentIssuer`, and the rest.
            algorithm: RS256 or ES256.
            clients: who may ask for tokens.
            people: who can log in, with the claims in their ID tokens.
        """
        issuer = cls("https://not-yet.example", audience=audience, algorithm=algorithm, clients=clients, people=people)
        application = web.Application(middlewares=[issuer._watch])
        application.add_routes(
            [
                web.get("/.well-known/openid-configuration", issuer._discovery),
                web.get("/keys", issuer._keys),
                web.get("/authorize", issuer.login.authorize),
                web.post("/token", issuer._token),
            ]
        )
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
            port = runner.addresses[0][1]
            issuer.issuer = f"{'https' if tls else 'http'}://{name or host}:{port}"
            yield issuer
        finally:
            await runner.cleanup()

    @web.middleware
    async def _watch(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(request.path)
        if self.is_down:
            raise web.HTTPServiceUnavailable
        response: web.StreamResponse = await handler(request)
        return response

    async def _discovery(self, request: web.Request) -> web.Response:
        return web.json_response(self.discovery())

    async def _keys(self, request: web.Request) -> web.Response:
        return web.json_response(self.jwks(), content_type="application/jwk-set+json")

    async def _token(self, request: web.Request) -> web.Response:
        """A grant; clients name themselves by HTTP Basic or in the form (RFC 6749, 2.3.1)."""
        form = await request.post()
        if form.get("grant_type") not in ("authorization_code", "client_credentials"):
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
        name, secret = str(form.get("client_id", "")), str(form.get("client_secret", ""))
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            name, _, secret = base64.b64decode(encoded).decode(errors="replace").partition(":")
            name, secret = unquote_plus(name), unquote_plus(secret)
        client = self.clients.get(name)
        if client is None or client.secret != secret:
            return web.json_response({"error": "invalid_client"}, status=401)
        no_store = {"cache-control": "no-store"}
        if form.get("grant_type") == "authorization_code":
            tokens = self.login.redeem(name, form)
            if tokens is None:
                return web.json_response({"error": "invalid_grant"}, status=400)
            return web.json_response(tokens, headers=no_store)
        audience = str(form.get("audience", self.audience))
        token = self.token(name, aud=audience, client_id=name, **client.claims)
        return web.json_response(
            {"access_token": token, "token_type": "Bearer", "expires_in": int(LIFETIME)},
            headers=no_store,
        )


def parse_people(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """People out of `NAME` and `NAME:GROUP,GROUP`. Raises ValueError."""
    people: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, *groups = text.split(":")
        if not name or len(groups) > 1:
            raise ValueError(text)
        people[name] = {"groups": groups[0].split(",")} if groups else {}
    return people


def parse_clients(texts: Sequence[str]) -> dict[str, Client]:
    """Clients out of `NAME:SECRET` and `NAME:SECRET:GROUP,GROUP`. Raises ValueError."""
    clients = {}
    for text in texts:
        name, secret, *groups = text.split(":")
        if not name or not secret or len(groups) > 1:
            raise ValueError(text)
        clients[name] = Client(secret, {"groups": groups[0].split(",")} if groups else {})
    return clients


async def run(
    host: str,
    port: int,
    name: str | None,
    audience: str,
    algorithm: str,
    clients: Mapping[str, Client],
    people: Mapping[str, Mapping[str, Any]],
) -> None:
    """Runs until SIGTERM or SIGINT. Prints its addresses as one line of JSON."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving = DevelopmentIssuer.serve(
        host=host, port=port, name=name, audience=audience, algorithm=algorithm, clients=clients, people=people
    )
    async with serving as issuer:
        sys.stdout.write(json.dumps({"event": "listening", "issuer": issuer.issuer, "keys": issuer.keys_url}) + "\n")
        sys.stdout.flush()
        await stop.wait()
