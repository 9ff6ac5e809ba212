"""A real oidc-provider as the issuer: algorithms, keys that change under load, and every attack with its own keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import jwt
import pytest
import pytest_asyncio
from aiohttp import web

from meshproxy.devtools.child import Child
from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.issuer import DevelopmentIssuer, SigningKey
from meshproxy.devtools.local_mesh import CLIENT, LocalSidecar, document, environment, local_sidecar
from tests.conformance.real_issuers import BODY, KEYS, PREDICT, Load, OidcProvider, answer_to
from tests.conformance.token_attacks import bad_tokens, good_tokens

pytestmark = [pytest.mark.asyncio(loop_scope="session")]


@pytest.fixture(scope="module")
def issuer(provider: OidcProvider) -> OidcProvider:
    return provider


@asynccontextmanager
async def running_sidecar(
    model_server: Child, issuer: OidcProvider, directory: Path, **more: object
) -> AsyncIterator[LocalSidecar]:
    trusted = {
        "name": "provider",
        "issuer": issuer.url,
        "audiences": ["models"],
        "algorithms": ["RS256", "ES256", "Ed25519"],
        **more,
    }
    subject = {
        "workload": {"namespace": CLIENT[0], "serviceAccount": CLIENT[1]},
        "token": {"issuer": "provider", "claims": {"scope": "models:predict", "client_id": "batch-scorer"}},
    }
    documents = [
        *environment(
            model_server.listening["rest"],
            model_server.listening["grpc"],
            mesh={"issuers": [trusted]},
            sidecar={"drainTimeout": "1s"},
        ),
        document("ModelRole", {"rules": [{"models": ["half_plus_two"], "verbs": ["predict"]}]}, "caller"),
        document("ModelRoleBinding", {"role": "caller", "subjects": [subject]}, "scorers"),
    ]
    async with local_sidecar(directory, documents) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sidecar(
    model_server: Child, issuer: OidcProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalSidecar]:
    async with running_sidecar(model_server, issuer, tmp_path_factory.mktemp("sidecar")) as running:
        yield running


@pytest.mark.parametrize("resource", ["urn:rs256", "urn:es256", "urn:ed25519", "urn:eddsa"])
async def test_algorithms(issuer: OidcProvider, sidecar: LocalSidecar, resource: str) -> None:
    token = await issuer.token(resource)
    assert jwt.get_unverified_header(token)["alg"].lower() == resource.removeprefix("urn:")
    assert await answer_to(sidecar, token) == ("200", None)


async def test_scopes_and_models(issuer: OidcProvider, sidecar: LocalSidecar) -> None:
    assert await answer_to(sidecar, None) == ("401", "unauthenticated")
    assert await answer_to(sidecar, await issuer.token(scope="models:status")) == ("403", "permission-denied")
    token = await issuer.token(scope="models:status models:predict")
    assert await answer_to(sidecar, token) == ("200", None)
    assert await answer_to(sidecar, token, "/v1/models/other:predict") == ("403", "permission-denied")


async def test_keys_that_change_under_load(issuer: OidcProvider, sidecar: LocalSidecar) -> None:
    """Three changes, each with a time in which both keys are published; the last takes the oldest away."""
    old = await issuer.token()
    load = Load(sidecar, issuer.token)
    made = [SigningKey.generate(f"rs-{number}", "RS256") for number in range(2, 5)]
    newest, *others = issuer.keys
    try:
        await load.until_used()
        for key in made:
            await load.until_used(issuer.set_keys([key, newest, *others]))
            newest = key
    finally:
        await load.stop()
        await issuer.set_keys([newest, *others])
    assert set(load.answers) == {"200"}, load.answers
    assert load.answers.total() > 80
    assert await answer_to(sidecar, old) == ("401", "unauthenticated")
    assert await answer_to(sidecar, await issuer.token()) == ("200", None)


@pytest.mark.parametrize("place", [{"header": "x-goog-iap-jwt-assertion"}, {"cookie": "session"}])
async def test_tokens_elsewhere(
    model_server: Child, issuer: OidcProvider, tmp_path: Path, place: dict[str, str]
) -> None:
    token = await issuer.token()
    name = place.get("header", "cookie")
    value = token if name != "cookie" else f"theme=dark; session={token}"
    beside = {"authorization": "Bearer of-the-gateway"}
    async with (
        running_sidecar(model_server, issuer, tmp_path, tokenFrom=place) as sidecar,
        RestClient(sidecar.inbound, sidecar.client) as client,
    ):
        expected = [
            ({name: value}, "200"),
            ({name: value, **beside}, "200"),
            ({name: value.replace(token, token[:-4])}, "401"),
            ({"authorization": f"Bearer {token}"}, "401"),
            (beside, "401"),
            ({}, "401"),
            *[({name: value}, "200")] * 5,  # on the express lane, too
        ]
        for headers, status in expected:
            answer = await client.call("POST", PREDICT, BODY, headers)
            assert answer.status == status, (headers, answer)


async def test_attacks(model_server: Child, issuer: OidcProvider, tmp_path: Path) -> None:
    """Signed with the key that the provider publishes, but where that is the attack."""
    await issuer.set_keys(KEYS)
    forger = DevelopmentIssuer(issuer.url)
    forger.keys = [KEYS[0]]
    claims = jwt.decode(await issuer.token("urn:ed25519"), options={"verify_signature": False})
    asked: list[str] = []

    async def note(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"keys": []})

    evil = web.Application()
    evil.add_routes([web.get("/{path:.*}", note)])
    runner = web.AppRunner(evil, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        # Of its own: keys that nobody has use up what it may fetch.
        async with (
            running_sidecar(model_server, issuer, tmp_path) as sidecar,
            RestClient(sidecar.inbound, sidecar.client) as client,
        ):

            async def call(token: str) -> tuple[str, str | None]:
                answer = await client.call("POST", PREDICT, BODY, {"authorization": f"Bearer {token}"})
                return answer.status, answer.refusal

            for name, good in good_tokens(forger, claims):
                assert await call(good) == ("200", None), name
            refused = Counter[tuple[str, str | None]]()
            for name, bad in bad_tokens(forger, claims, url):
                got = await call(bad)
                assert got[0] in ("401", "503", "400", "431"), (name, got)
                refused[got] += 1
            assert await call(forger.sign({}, claims)) == ("200", None)
        print(dict(refused), "of the attacks")
        # 503: a key that nobody knows, when the set was fetched a moment ago. The head of a request has a limit, too.
        assert set(refused) <= {("401", "unauthenticated"), ("503", "keys-unavailable"), ("431", "head-too-large")}
        assert refused["401", "unauthenticated"] > 110
        assert refused["503", "keys-unavailable"] < 15
        assert asked == []
    finally:
        await runner.cleanup()
