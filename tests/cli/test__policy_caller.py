"""Callers of `meshproxy policy explain`: real certificates and tokens, as a sidecar takes or refuses them."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from click import ClickException, UsageError

from meshproxy.cli import _policy_caller, _policy_sets
from meshproxy.config.policy_set import PolicySet
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.issuer import DevelopmentIssuer
from tests.identity.test_load_balancer import BALANCER, CLIENT, POOL
from tests.identity.test_load_balancer import fresh_token as balancer_token

ISSUER = DevelopmentIssuer("https://login.dev.example", audience="models")
DOMAIN = "dev.example"


@pytest.fixture
def documents(tmp_path: Path) -> PolicySet:
    """An issuer whose keys are in a file beside the document."""
    (tmp_path / "mesh.yaml").write_text(Path("deploy/examples/first.yaml").read_text())
    (tmp_path / "jwks.json").write_text(json.dumps(ISSUER.jwks()))
    return _policy_sets.load([str(tmp_path / "mesh.yaml")])


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "given"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_certificate(documents: PolicySet, tmp_path: Path) -> None:
    leaf = DevelopmentCA.create(DOMAIN).issue("spiffe://dev.example/ns/a/sa/b")
    certificate, _ = leaf.write(tmp_path, "leaf")
    for path in (certificate, written(tmp_path, leaf.der)):
        part = _policy_caller.from_certificate(documents, DOMAIN, path)
        assert part.found is not None
        assert (part.found.namespace, part.problem) == ("a", "")
        assert dict(part.facts)["SPIFFE ID"] == "spiffe://dev.example/ns/a/sa/b"
        assert "signature of the certificate is not checked" in part.notes[0]


def test_certificates_that_are_refused(documents: PolicySet, tmp_path: Path) -> None:
    other = DevelopmentCA.create("other.example").issue("spiffe://other.example/x")
    part = _policy_caller.from_certificate(documents, DOMAIN, written(tmp_path, other.der))
    assert part.found is None
    assert "belongs to trust domain other.example" in part.problem
    old = DevelopmentCA.create(DOMAIN).issue("spiffe://dev.example/x", lifetime=timedelta(seconds=-1))
    assert "expired" in _policy_caller.from_certificate(documents, DOMAIN, written(tmp_path, old.der)).problem
    assert "cannot be read" in _policy_caller.from_certificate(documents, DOMAIN, written(tmp_path, b"0")).problem
    with pytest.raises(UsageError, match="no certificate in PEM"):
        _policy_caller.from_certificate(documents, DOMAIN, written(tmp_path, "-----BEGIN X-----"))


def test_a_token(documents: PolicySet, tmp_path: Path) -> None:
    for text in (ISSUER.token("alice", groups=["finance"]), f"Bearer {ISSUER.token('alice', groups=['finance'])}\n"):
        part = _policy_caller.from_token(documents, written(tmp_path, text), [])
        assert part.found is not None
        assert (part.found.subject, part.notes) == ("alice", ())
        facts = dict(part.facts)
        assert facts["groups"] == '["finance"]'
        assert facts["exp"].endswith(" UTC)")


def test_tokens_that_are_refused(documents: PolicySet, tmp_path: Path) -> None:
    stranger = DevelopmentIssuer("https://elsewhere.example", audience="models")
    forged = DevelopmentIssuer("https://login.dev.example", audience="models")
    wrong = DevelopmentIssuer("https://login.dev.example", audience="others")
    for text, problem, hint in (
        (stranger.token("a"), "issuer (iss)", "corp (https://login.dev.example)"),
        (wrong.token("a"), "audience (aud)", "issuer corp demands one of these as aud: models"),
        (forged.token("a"), "signature is invalid", ""),
        ("x", "not a signed JWT", None),
    ):
        part = _policy_caller.from_token(documents, written(tmp_path, text), [])
        assert part.found is None
        assert problem in part.problem
        assert hint is None or any(hint in note for note in part.notes)


def test_keys_that_are_not_at_hand(documents: PolicySet, tmp_path: Path) -> None:
    (tmp_path / "jwks.json").unlink()
    token = written(tmp_path, ISSUER.token("alice"))
    part = _policy_caller.from_token(documents, token, [])
    assert part.found is not None
    assert "give --jwks corp=FILE" in part.notes[0]
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(DevelopmentIssuer("https://login.dev.example", audience="models").jwks()))
    assert _policy_caller.from_token(documents, token, [f"corp={keys}"]).found is None
    keys.write_text(json.dumps(ISSUER.jwks()))
    assert _policy_caller.from_token(documents, token, [f"corp={keys}"]).notes == ()
    keys.write_text("{}")
    with pytest.raises(ClickException, match="the keys of issuer corp"):
        _policy_caller.from_token(documents, token, [f"corp={keys}"])
    for text, message in (("corp", "expected ISSUER=FILE"), ("crop=x", "did you mean"), ("corp=missing", "cannot be")):
        with pytest.raises(ClickException, match=message):
            _policy_caller.from_token(documents, token, [text])


def test_a_token_of_a_load_balancer(tmp_path: Path) -> None:
    """Its header says whose it is: the payload may have no `iss`, and a plain issuer the same one."""
    plain = {"name": "pool", "issuer": POOL, "audiences": [CLIENT]}
    balanced = {
        **plain,
        "name": "people",
        "algorithms": ["RS256"],
        "loadBalancers": [BALANCER],
        "tokenFrom": {"header": "x-amzn-oidc-data"},
    }
    mesh = {
        "apiVersion": "meshproxy.dev/v1alpha1",
        "kind": "MeshConfig",
        "metadata": {"name": "m"},
        "spec": {"trustDomain": DOMAIN, "issuers": [plain, balanced]},
    }
    documents = _policy_sets.load([str(written(tmp_path, json.dumps(mesh)).rename(tmp_path / "mesh.yaml"))])
    for compact in (balancer_token(), balancer_token(without="claim_iss")):
        part = _policy_caller.from_token(documents, written(tmp_path, compact), [])
        assert part.found is not None, part.problem
        assert part.found.issuer == "people"
    part = _policy_caller.from_token(documents, written(tmp_path, balancer_token(signer="arn:other")), [])
    assert "load balancer (signer)" in part.problem
    assert f"issuer people demands one of these as signer, in the header: {BALANCER}" in part.notes
    assert f"issuer people demands one of these as client, in the header: {CLIENT}" in part.notes
    part = _policy_caller.from_token(documents, written(tmp_path, DevelopmentIssuer(POOL, audience=CLIENT).token()), [])
    assert part.found is not None
    assert part.found.issuer == "pool"


def test_a_token_needs_the_issuers() -> None:
    with pytest.raises(UsageError, match="needs the MeshConfig"):
        _policy_caller.from_token(_policy_sets.load(["deploy/demo/policy.yaml"]), Path("x"), [])
