"""Token issuers that other people wrote, as processes: Keycloak and npm's oidc-provider. And a load whose callers fetch
their tokens from one, as applications do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import get_default_algorithms

from meshproxy.devtools.child import Child, free_port
from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.issuer import SigningKey
from meshproxy.devtools.local_mesh import LocalSidecar

KEYCLOAK = os.environ.get("KEYCLOAK_HOME") or None
"""Where `make conformance` has unpacked and built it; it says so if it could not."""
OIDC_PROVIDER = os.environ.get("OIDC_PROVIDER_HOME") or None
ADMIN = ("admin", "admin-of-the-tests")
PREDICT = "/v1/models/half_plus_two:predict"
BODY = {"instances": [1.0, 2.0, 5.0]}
START_SECONDS = 300.0
KEYS = [
    SigningKey.generate("rs-1", "RS256"),
    SigningKey.generate("es-1", "ES256"),
    SigningKey("ed-1", "EdDSA", ed25519.Ed25519PrivateKey.generate()),
]
"""That oidc-provider begins with."""


class Keycloak:
    """A running Keycloak with a database in memory."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def token(self, realm: str, **form: str) -> dict[str, Any]:
        """The answer of the token endpoint."""
        url = f"{self.url}/realms/{realm}/protocol/openid-connect/token"
        async with self._session.post(url, data=form) as response:
            answer: dict[str, Any] = await response.json()
            assert response.status == 200, answer
            return answer

    async def admin(self, method: str, path: str, document: object = None) -> Any:
        """A call of the Admin REST API."""
        name, password = ADMIN
        granted = await self.token(
            "master", grant_type="password", client_id="admin-cli", username=name, password=password
        )
        headers = {"authorization": f"Bearer {granted['access_token']}"}
        async with self._session.request(method, f"{self.url}/admin{path}", json=document, headers=headers) as response:
            text = await response.text()
            assert response.status < 300, text
            return json.loads(text) if text else None

    async def add_key(self, realm: str, provider: str, priority: int, **config: str) -> None:
        """A new key of a realm: `provider` is rsa, ecdsa or eddsa, and the highest priority signs."""
        settings = {"priority": [str(priority)], **{name: [value] for name, value in config.items()}}
        component = {
            "name": f"{provider}-{priority}",
            "providerId": f"{provider}-generated",
            "providerType": "org.keycloak.keys.KeyProvider",
            "config": settings,
        }
        await self.admin("POST", f"/realms/{realm}/components", component)

    async def drop_other_keys(self, realm: str, kept: Sequence[str]) -> None:
        """Remove all keys for signing but those of the providers that are named."""
        for each in await self.admin("GET", f"/realms/{realm}/components?type=org.keycloak.keys.KeyProvider"):
            is_asymmetric = each["providerId"].split("-")[0] in ("rsa", "ecdsa", "eddsa")
            if is_asymmetric and each["name"] not in kept:
                await self.admin("DELETE", f"/realms/{realm}/components/{each['id']}")


@asynccontextmanager
async def keycloak() -> AsyncIterator[Keycloak]:
    """Keycloak, until the end of the block."""
    assert KEYCLOAK is not None
    port, management = free_port(), free_port()
    environment = {
        **os.environ,
        "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN[0],
        "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN[1],
        "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1",  # half of the CPU of a start
    }
    process = await asyncio.create_subprocess_exec(
        *(f"{KEYCLOAK}/bin/kc.sh", "start", "--optimized", "--cache=local", "--http-enabled=true"),
        *("--hostname-strict=false", "--http-host=127.0.0.1", f"--http-port={port}"),
        f"--http-management-port={management}",
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        async with asyncio.timeout(START_SECONDS):
            while not (said and "Listening on:" in said[-1]):
                line = await process.stdout.readline()
                assert line, "\n".join(said[-20:])
                said.append(line.decode(errors="replace"))
        rest = asyncio.ensure_future(process.stdout.read())
        async with aiohttp.ClientSession() as session:
            yield Keycloak(f"http://127.0.0.1:{port}", session)
        rest.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


class OidcProvider:
    """A running oidc-provider, whose private keys the test makes: it can sign what the provider never would.

    Attributes:
        keys: that it has.
    """

    def __init__(self, child: Child, file: Path, keys: Sequence[SigningKey], session: aiohttp.ClientSession) -> None:
        self.keys = list(keys)
        self.url = str(child.listening["issuer"])
        self._child = child
        self._file = file
        self._session = session

    async def token(self, resource: str = "urn:rs256", scope: str = "models:predict") -> str:
        """An access token for one of the resources in provider.mjs."""
        form = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
        headers = {"authorization": aiohttp.encode_basic_auth("batch-scorer", "secret")}
        async with self._session.post(f"{self.url}/token", data=form, headers=headers) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return str(answer["access_token"])

    async def set_keys(self, keys: Sequence[SigningKey]) -> None:
        """Publish these keys from now on; of one algorithm, the first signs."""
        self.keys = list(keys)
        rotated = asyncio.Event()
        self._child.on_line = lambda line: rotated.set() if line == "rotated" else None
        write_keys(self._file, keys)
        self._child.signal(signal.SIGHUP)
        await asyncio.wait_for(rotated.wait(), 60)


def write_keys(file: Path, keys: Sequence[SigningKey]) -> None:
    """A JWK set of private keys."""
    algorithms = get_default_algorithms()
    members = []
    for key in keys:
        jwk = algorithms[key.algorithm].to_jwk(key.private, as_dict=True)
        jwk.pop("key_ops", None)
        members.append({**jwk, "kid": key.kid, "use": "sig"})
    file.write_text(json.dumps({"keys": members}))


@asynccontextmanager
async def oidc_provider(directory: Path, keys: Sequence[SigningKey], page: str) -> AsyncIterator[OidcProvider]:
    """oidc-provider with these keys, until the end of the block. `page`: the address of the page that is its client."""
    assert OIDC_PROVIDER is not None
    file = directory / "keys.json"
    write_keys(file, keys)
    child = await Child.start("oidc-provider", "node", "provider.mjs", str(file), page, directory=Path(OIDC_PROVIDER))
    try:
        async with aiohttp.ClientSession() as session:
            yield OidcProvider(child, file, keys, session)
    finally:
        await child.stop()


class Load:
    """Callers of a sidecar that call one after the other, each with a token that it replaces every few calls."""

    def __init__(self, sidecar: LocalSidecar, token: Callable[[], Awaitable[str]], callers: int = 4) -> None:
        self._sidecar = sidecar
        self._token = token
        self.answers: Counter[str] = Counter()
        """Calls by status and reason."""
        self.headers: dict[str, int] = {}
        """By the header of tokens, calls that were made with such a one."""
        self._tasks = [asyncio.ensure_future(self._call()) for _ in range(callers)]

    async def _call(self) -> None:
        async with RestClient(self._sidecar.inbound, self._sidecar.client) as client:
            while True:
                token = await self._token()
                for _ in range(5):
                    answer = await client.call("POST", PREDICT, BODY, {"authorization": f"Bearer {token}"})
                    self.answers[f"{answer.status} {answer.refusal or ''}".strip()] += 1
                    header = token.partition(".")[0]
                    self.headers[header] = self.headers.get(header, 0) + 1

    async def until_used(self, change: Awaitable[object] | None = None, calls: int = 20) -> None:
        """Make a change, and return when as many calls were made with tokens whose header (key and algorithm) was not
        seen before it."""
        known = set(self.headers)
        if change is not None:
            await change
        async with asyncio.timeout(60):
            while sum(count for header, count in self.headers.items() if header not in known) < calls:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def answer_to(sidecar: LocalSidecar, token: str | None, path: str = PREDICT) -> tuple[str, str | None]:
    """Status and reason of the answer to one call."""
    async with RestClient(sidecar.inbound, sidecar.client, token) as client:
        answer = await client.call("POST", path, BODY)
        return answer.status, answer.refusal
