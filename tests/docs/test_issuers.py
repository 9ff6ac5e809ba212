"""docs/issuers.md: every block loads, and what it says lets a token of that issuer's shape in, its neighbour not."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from meshproxy.config.load import load
from meshproxy.devtools.issuer import DevelopmentIssuer, SigningKey
from meshproxy.identity.caller import Caller, Token
from meshproxy.identity.tokens import TokenVerifier, credential
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.compile import compile_policy
from meshproxy.refusal import Refusal
from meshproxy.sidecar.tokens import Tokens, issuer_of
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from tests.identity.test_load_balancer import KEY, KID, PLACE, known_keys, pem_of
from tests.identity.test_load_balancer import fresh_token as balancer_token

PAGE = Path(__file__).parents[2] / "docs" / "issuers.md"
CALL = Call(Verb.PREDICT, (ModelRef("m", None, None, None),))
KEYS = {
    "RS256": SigningKey.generate("rs", "RS256"),
    "ES256": SigningKey.generate("es", "ES256"),
    "ES384": SigningKey("es384", "ES384", ec.generate_private_key(ec.SECP384R1())),
    "EdDSA": SigningKey("ed", "EdDSA", ed25519.Ed25519PrivateKey.generate()),
}
REST = """\
apiVersion: meshproxy.dev/v1alpha1
kind: Sidecar
metadata: {name: own}
spec: {inbound: {server: models}}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelServer
metadata: {name: models}
spec: {endpoints: [{rest: "127.0.0.1:8501"}]}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRole
metadata: {name: caller}
spec: {rules: [{models: ["*"], verbs: [predict]}]}
---
"""

Shape = tuple[str, dict[str, object], dict[str, object], dict[str, object]]
"""Algorithm, header, claims beside `iss`, `iat` and `exp`, and a change that the binding does not allow."""
KUBERNETES = {
    "namespace": "pricing",
    "node": {"name": "n", "uid": "u"},
    "pod": {"name": "p", "uid": "u"},
    "serviceaccount": {"name": "quoter", "uid": "u"},
    "warnafter": 1,
}
KEYCLOAK: dict[str, object] = {
    "jti": "onrtro:617dac1a", "aud": ["models", "models.example"], "sub": "7f11425d", "typ": "Bearer",
    "azp": "notebook", "sid": "ejJv", "acr": "1", "realm_access": {"roles": ["ml-user"]},
    "resource_access": {"models.example": {"roles": ["caller"]}}, "scope": "openid email profile",
    "email_verified": True, "groups": ["/ml/team-a"], "https://models": {"example/team": "fraud"},
    "preferred_username": "alice",
}  # fmt: skip
COGNITO: dict[str, object] = {
    "sub": "b1f6", "cognito:groups": ["ml"], "version": 2, "client_id": "CLIENT", "origin_jti": "x", "jti": "y",
    "token_use": "access", "scope": "openid models/predict", "auth_time": 1, "username": "alice",
}  # fmt: skip
ENTRA: dict[str, object] = {
    "aio": "x", "oid": "o", "rh": "r", "sub": "s", "tid": "TENANT", "uti": "u", "roles": ["Models.Predict"],
}  # fmt: skip
JWT: dict[str, object] = {"typ": "JWT"}
BARE: dict[str, object] = {"typ": None}
SHAPES: dict[str, list[Shape]] = {
    "Keycloak": [
        ("RS256", JWT, KEYCLOAK, {"resource_access": {"models": {"example": {"roles": ["caller"]}}}}),
        ("RS256", JWT, KEYCLOAK, {"realm_access": {"roles": ["ml-users"]}}),
    ],
    "oidc-provider": [
        ("EdDSA", {"alg": "Ed25519", "typ": "at+jwt"},
         {"jti": "x", "sub": "batch-scorer", "scope": "models:predict", "client_id": "batch-scorer", "aud": "models"},
         {"scope": "models:status"}),
    ],
    "Microsoft Entra ID": [
        ("RS256", {**JWT, "x5t": "x"},
         {**ENTRA, "aud": "api://models", "appid": "CLIENT", "appidacr": "1", "idp": "x", "ver": "1.0"},
         {"roles": ["Models.Status"]}),
        ("RS256", JWT,
         {**ENTRA, "aud": "APPLICATION", "azp": "CLIENT", "azpacr": "1", "ver": "2.0",
          "scp": "Models.Predict User.Read"},
         {"scp": "User.Read"}),
    ],
    "Auth0": [
        ("RS256", JWT,
         {"sub": "CLIENT@clients", "aud": "https://models.example/", "azp": "CLIENT", "gty": "client-credentials",
          "scope": "models:predict", "permissions": ["models:predict"], "exp": 86_400},
         {"permissions": []}),
    ],
    "Amazon Cognito": [("RS256", BARE, COGNITO, {"cognito:groups": ["other"]})],
    "Okta": [
        ("RS256", BARE,
         {"ver": 1, "jti": "AT.x", "aud": "api://default", "cid": "CLIENT", "scp": ["models:predict"], "sub": "CLIENT"},
         {"scp": ["openid"]}),
    ],
    "Dex": [
        ("RS256", BARE,
         {"sub": "CgcyMzQyNzQ5EgZnaXRodWI", "aud": "CLIENT", "at_hash": "x", "email": "a@b.example",
          "email_verified": True, "groups": ["ORGANIZATION:ml"], "name": "A", "exp": 86_400},
         {"groups": ["OTHER:ml"]}),
    ],
    "Ory Hydra": [
        ("RS256", JWT,
         {"aud": ["models"], "client_id": "CLIENT", "ext": {}, "jti": "x", "nbf": 0, "scp": ["predict"],
          "sub": "CLIENT", "exp": 3_600},
         {"scp": ["openid"]}),
    ],
    "Spring Authorization Server": [
        ("RS256", BARE,
         {"sub": "CLIENT", "aud": "CLIENT", "nbf": 0, "scope": ["predict"], "jti": "x"},
         {"scope": ["openid"]}),
    ],
    "Kubernetes": [
        ("RS256", BARE,
         {"aud": ["models"], "jti": "x", "kubernetes.io": KUBERNETES, "nbf": 0, "exp": 3_600,
          "sub": "system:serviceaccount:pricing:quoter"},
         {"kubernetes.io": {**KUBERNETES, "namespace": "other"}}),
    ],
    "GitHub Actions": [
        ("RS256", {**JWT, "x5t": "x"},
         {"jti": "x", "sub": "repo:ORGANIZATION/REPOSITORY:environment:prod", "aud": "models",
          "ref": "refs/heads/main", "repository": "ORGANIZATION/REPOSITORY", "environment": "prod", "nbf": -600},
         {"ref": "refs/pull/1/merge"}),
    ],
    "Google Cloud": [
        ("RS256", JWT,
         {"aud": "models", "azp": "1", "email": "caller@PROJECT.iam.gserviceaccount.com", "email_verified": True,
          "sub": "1", "exp": 3_600},
         {"email": "caller@OTHER.iam.gserviceaccount.com"}),
    ],
    "Google IAP": [
        ("ES256", JWT,
         {"aud": "/projects/NUMBER/global/backendServices/ID", "email": "a@models.example", "exp": 600,
          "sub": "accounts.google.com:1", "hd": "models.example"},
         {"email": "a@other.example"}),
    ],
    "Cloudflare Access": [
        ("RS256", BARE,
         {"aud": ["APPLICATION"], "email": "a@models.example", "nbf": 0, "type": "app", "identity_nonce": "x",
          "sub": "7335", "country": "DE"},
         {"email": "a@other.example"}),
    ],
    "AWS ALB": [("RS256", BARE, COGNITO, {"username": "bob"})],
    "SPIRE": [
        ("ES256", JWT, {"aud": ["models"], "sub": "spiffe://TRUSTDOMAIN/ns/pricing/sa/quoter"},
         {"sub": "spiffe://TRUSTDOMAIN/ns/pricing/sa/other"}),
    ],
    "AWS STS": [
        ("ES384", JWT,
         {"aud": "models", "sub": "arn:aws:iam::123456789012:role/batch-scorer", "jti": "x",
          "https://sts.amazonaws.com/": {"aws_account": "123456789012", "principal_id": "x"}},
         {"sub": "arn:aws:iam::123456789012:role/other"}),
    ],
    "AWS, pre-signed requests": [],
}  # fmt: skip


def blocks() -> dict[str, list[dict[str, Any]]]:
    """The blocks of each section."""
    found: dict[str, list[dict[str, Any]]] = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        title = section.partition("\n")[0]
        found[title] = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)]
    return found


BLOCKS = blocks()
CASES = [
    pytest.param(block, shape, id=f"{title}-{number}")
    for title, shapes in SHAPES.items()
    for number, (block, shape) in enumerate(zip(BLOCKS.get(title, []), shapes, strict=False))
]


def is_balanced(block: dict[str, Any]) -> bool:
    """Whether its tokens are those of a load balancer, which have a test of their own."""
    return any("loadBalancers" in issuer for issuer in block.get("issuers", []))


def documents(block: dict[str, Any], keys: dict[str, Any]) -> str:
    """A whole set around a block. The keys are written out: nothing is fetched."""
    issuers = [
        {
            **{
                name: value
                for name, value in issuer.items()
                if name not in ("caFile", "bearerTokenFile", "insideCluster")
            },
            "keys": {"inline": keys},
        }
        for issuer in block.get("issuers", [])
    ]
    spec = {"trustDomain": "d.example", "mtls": "disabled", "issuers": issuers, "aws": block.get("aws", {})}
    head = {"apiVersion": "meshproxy.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "mesh"}, "spec": spec}
    binding = {
        "apiVersion": "meshproxy.dev/v1alpha1",
        "kind": "ModelRoleBinding",
        "metadata": {"name": "b"},
        "spec": {"role": "caller", "subjects": block["subjects"]},
    }
    return f"{json.dumps(head)}\n---\n{REST}{json.dumps(binding)}"


class Outbox:
    def begin(self) -> None:
        pass

    def flush(self) -> None:
        pass


def test_every_section_has_its_shapes() -> None:
    blocks = {title: [block for block in found if not is_balanced(block)] for title, found in BLOCKS.items() if found}
    assert {title: len(found) for title, found in blocks.items()} == {
        title: max(len(shapes), 1) for title, shapes in SHAPES.items()
    }


def test_every_block_loads_as_it_stands(tmp_path: Path) -> None:
    for title, found in BLOCKS.items():
        for block in found:
            whole = yaml.safe_load(documents(block, {"keys": [KEYS["RS256"].public_jwk()]}).partition("\n---\n")[0])
            whole["spec"]["issuers"] = block.get("issuers", [])
            rest = documents(block, {}).partition("\n---\n")[2]
            path = tmp_path / "documents.yaml"
            path.write_text(f"{json.dumps(whole)}\n---\n{rest}")
            assert load([str(path)]).bindings, title


@pytest.mark.parametrize(("block", "shape"), CASES)
def test_a_token_of_that_shape(block: dict[str, Any], shape: Shape, tmp_path: Path) -> None:
    algorithm, header, claims, change = shape
    path = tmp_path / "documents.yaml"
    path.write_text(documents(block, {"keys": [KEYS[algorithm].public_jwk()]}))
    loaded = load([str(path)])
    trusted = loaded.mesh.spec.issuers[0]
    issuer = DevelopmentIssuer(trusted.issuer)
    verifier = Tokens(SidecarMetrics(), Outbox()).build(loaded.mesh.spec.issuers)  # type: ignore[arg-type]
    policy = compile_policy(loaded.roles, loaded.bindings, "d.example")
    place = trusted.token_from.name if trusted.token_from is not None else None

    def verified(changed: dict[str, object]) -> Token:
        now = int(time.time())
        dates = {"iat": now, "exp": now + int(str(claims.get("exp", 300)))}
        if "nbf" in claims:
            dates["nbf"] = now + int(str(claims["nbf"]))
        token = issuer.sign(header, {"iss": trusted.issuer, **claims, **changed, **dates}, KEYS[algorithm])
        assert isinstance(verifier, TokenVerifier)
        given = f"Bearer {token}".encode() if place is None else credential(place, token.encode())
        return verifier.verify(given, now)

    assert policy.decide(Caller(token=verified({})), CALL).rule == "b"
    with pytest.raises(Refusal, match="not permitted"):
        policy.decide(Caller(token=verified(change)), CALL)
    with pytest.raises(Refusal, match=r"\(aud\)|required"):
        verified({"aud": "another"})


def test_what_a_load_balancer_says_of_a_person(tmp_path: Path) -> None:
    (block,) = filter(is_balanced, BLOCKS["AWS ALB"])
    path = tmp_path / "documents.yaml"
    head, _, rest = documents({**block, "issuers": []}, {}).partition("\n---\n")
    mesh = json.loads(head)
    mesh["spec"]["issuers"] = block["issuers"]
    path.write_text(f"{json.dumps(mesh)}\n---\n{rest}")
    loaded = load([str(path)])
    (trusted,) = loaded.mesh.spec.issuers
    policy = compile_policy(loaded.roles, loaded.bindings, "d.example")
    verifier = TokenVerifier([issuer_of(trusted, known_keys((KID, pem_of(KEY))))])

    def decided(email: str) -> str | None:
        url = trusted.issuer
        compact = balancer_token(iss=url, claim_iss=url, client=trusted.audiences[0], claim_email=email)
        return policy.decide(Caller(token=verifier.verify(credential(PLACE, compact), time.time())), CALL).rule

    assert decided("alice@models.example") == "b"
    with pytest.raises(Refusal, match="not permitted"):
        decided("alice@other.example")
