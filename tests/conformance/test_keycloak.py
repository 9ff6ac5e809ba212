"""A real Keycloak as the issuer: who may call what, tokens that are not for us, and keys that change under load."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from meshproxy.devtools.child import Child
from meshproxy.devtools.local_mesh import CLIENT, LocalSidecar, document, environment, local_sidecar
from tests.conformance.real_issuers import Keycloak, Load, answer_to

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(800)]

MAPPERS = "openid-connect"
AUDIENCE = {
    "name": "audience",
    "protocol": MAPPERS,
    "protocolMapper": "oidc-audience-mapper",
    "config": {"included.custom.audience": "models", "access.token.claim": "true"},
}
GROUPS = {
    "name": "groups",
    "protocol": MAPPERS,
    "protocolMapper": "oidc-group-membership-mapper",
    "config": {"claim.name": "groups", "full.path": "true", "access.token.claim": "true"},
}
TEAM = {
    "name": "team",
    "protocol": MAPPERS,
    "protocolMapper": "oidc-hardcoded-claim-mapper",
    "config": {
        "claim.name": "https://models.example/team",
        "claim.value": "fraud",
        "jsonType.label": "String",
        "access.token.claim": "true",
    },
}


def user(name: str, **more: object) -> dict[str, object]:
    return {
        "username": name,
        "enabled": True,
        "email": f"{name}@models.example",
        "emailVerified": True,
        "firstName": name,
        "lastName": "Example",
        "credentials": [{"type": "password", "value": f"password-of-{name}"}],
        **more,
    }


REALM = {
    "realm": "mlops",
    "enabled": True,
    "roles": {"realm": [{"name": "ml-user"}], "client": {"models.example": [{"name": "caller"}]}},
    "groups": [{"name": "ml", "subGroups": [{"name": "team-a"}]}],
    "clients": [
        {"clientId": "models.example", "bearerOnly": True},
        {"clientId": "unconfigured", "secret": "secret", "serviceAccountsEnabled": True},
        {
            "clientId": "batch-scorer",
            "secret": "secret",
            "serviceAccountsEnabled": True,
            "protocolMappers": [AUDIENCE, TEAM],
        },
        {
            "clientId": "notebook",
            "secret": "secret",
            "directAccessGrantsEnabled": True,
            "protocolMappers": [AUDIENCE, GROUPS],
        },
    ],
    "users": [
        user("alice", groups=["/ml/team-a"], realmRoles=["ml-user"], clientRoles={"models.example": ["caller"]}),
        user("bob"),
    ],
}

SUBJECTS: dict[str, dict[str, Any]] = {
    "half_plus_two": {"claims": {"azp": {"anyOf": ["batch-scorer", "notebook"]}}},
    "by-realm-role": {"claims": {"realm_access.roles": "ml-user"}},
    "by-client-role": {"claimPaths": [{"path": ["resource_access", "models.example", "roles"], "exact": "caller"}]},
    "by-group": {"claims": {"groups": {"prefix": "/ml/"}}},
    "by-scope": {"claims": {"scope": {"allOf": ["email", "profile"]}}},
    "by-user": {"claims": {"preferred_username": "alice", "email_verified": True}},
    "by-split-name": {"claimPaths": [{"path": ["https://models", "example/team"], "exact": "fraud"}]},
    "by-dotted-name": {"claims": {"https://models.example/team": "fraud"}},
}
"""A model for each way to name a caller."""
WORKLOAD = {"namespace": CLIENT[0], "serviceAccount": CLIENT[1]}


def policy() -> list[dict[str, Any]]:
    documents = []
    for model, token in SUBJECTS.items():
        subject = {"workload": WORKLOAD, "token": {"issuer": "keycloak", **token}}
        documents += [
            document("ModelRole", {"rules": [{"models": [model], "verbs": ["predict"]}]}, model.replace("_", "-")),
            document(
                "ModelRoleBinding", {"role": model.replace("_", "-"), "subjects": [subject]}, model.replace("_", "-")
            ),
        ]
    return documents


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def issuer(keycloak: Keycloak) -> Keycloak:
    await keycloak.admin("POST", "/realms", REALM)
    return keycloak


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sidecar(
    model_server: Child, issuer: Keycloak, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalSidecar]:
    trusted = {
        "name": "keycloak",
        "issuer": f"{issuer.url}/realms/mlops",
        "audiences": ["models"],
        "algorithms": ["RS256", "ES256", "EdDSA"],
    }
    said = model_server.listening
    documents = environment(said["rest"], said["grpc"], mesh={"issuers": [trusted]}, sidecar={"drainTimeout": "1s"})
    async with local_sidecar(tmp_path_factory.mktemp("keycloak"), documents + policy()) as running:
        yield running


async def service(issuer: Keycloak, client: str = "batch-scorer") -> str:
    granted = await issuer.token("mlops", grant_type="client_credentials", client_id=client, client_secret="secret")
    return str(granted["access_token"])


async def person(issuer: Keycloak, name: str) -> dict[str, Any]:
    return await issuer.token(
        "mlops",
        grant_type="password",
        client_id="notebook",
        client_secret="secret",
        username=name,
        password=f"password-of-{name}",
        scope="openid",
    )


async def test_who_may_call_which_model(issuer: Keycloak, sidecar: LocalSidecar) -> None:
    tokens = {
        "batch-scorer": await service(issuer),
        "alice": (await person(issuer, "alice"))["access_token"],
        "bob": (await person(issuer, "bob"))["access_token"],
    }
    may: dict[str, set[str]] = {name: set() for name in tokens}
    for name, token in tokens.items():
        for model in SUBJECTS:
            status, refusal = await answer_to(sidecar, token, f"/v1/models/{model}:predict")
            # The model server knows one of these models: 404 is its answer, 403 is ours.
            assert (status, refusal) in (("200", None), ("404", None), ("403", "permission-denied")), (name, model)
            if refusal is None:
                may[name].add(model)
    names = {"by-split-name", "by-dotted-name"}
    assert may == {
        "batch-scorer": {"half_plus_two", "by-scope"} | names,
        "alice": set(SUBJECTS) - names,
        "bob": {"half_plus_two", "by-scope"},
    }


async def test_tokens_that_are_not_for_us(issuer: Keycloak, sidecar: LocalSidecar) -> None:
    """Of the same issuer, with the same keys."""
    alice = await person(issuer, "alice")
    for token in (
        None,
        await service(issuer, "unconfigured"),  # aud: account
        alice["id_token"],  # aud: the client
        alice["refresh_token"],  # HS512
        alice["access_token"][:-4],
        alice["access_token"].replace(".", ".e30", 1),
        (
            await issuer.token(
                "master", grant_type="password", client_id="admin-cli", username="admin", password="admin-of-the-tests"
            )
        )["access_token"],
    ):
        assert await answer_to(sidecar, token) == ("401", "unauthenticated")


async def test_keys_that_change_under_load(issuer: Keycloak, sidecar: LocalSidecar) -> None:
    """Three changes, also of the algorithm; then the keys before the last one are withdrawn."""
    old = await service(issuer)
    load = Load(sidecar, lambda: service(issuer))

    async def sign_with(algorithm: str) -> None:
        await issuer.admin("PUT", "/realms/mlops", {"defaultSignatureAlgorithm": algorithm})

    try:
        await load.until_used()
        await load.until_used(issuer.add_key("mlops", "rsa", 1_000, keySize="2048", algorithm="RS256"))
        await issuer.add_key("mlops", "ecdsa", 1_001, ecdsaEllipticCurveKey="P-256")
        await load.until_used(sign_with("ES256"))
        assert await answer_to(sidecar, old) == ("200", None)
        await issuer.add_key("mlops", "eddsa", 1_002, eddsaEllipticCurveKey="Ed25519")
        await issuer.drop_other_keys("mlops", ["ecdsa-1001", "eddsa-1002"])
        await load.until_used(sign_with("EdDSA"))
    finally:
        await load.stop()
    assert set(load.answers) == {"200"}, load.answers
    assert load.answers.total() > 80
    # The set was fetched because of the newest key, and the one of this token is not in it any more.
    assert await answer_to(sidecar, old) == ("401", "unauthenticated")
    assert await answer_to(sidecar, await service(issuer)) == ("200", None)
