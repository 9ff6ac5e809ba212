"""Issuers: where tokens are, and where keys may be fetched."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.config.fields import ClaimAtPath, TextMatch
from meshproxy.config.issuers import CallerIdentity, Issuer, KeySource, TokenPlace, check_apart
from meshproxy.telemetry.log_lines import LOGGED_HEADERS


def issuer(**more: Any) -> Issuer:
    return Issuer(**{"name": "corp", "issuer": "https://login.example", "audiences": ("models",), **more})


@pytest.mark.parametrize(
    "url",
    [
        "http://keycloak:8080/certs",
        "http://keycloak.auth.svc/certs",
        "http://keycloak.auth.svc.cluster.local:8080/certs",
        "http://10.0.0.7/certs",
        "http://[fd00::7]/certs",
    ],
)
def test_http_inside_of_the_cluster(url: str) -> None:
    assert issuer(keys=KeySource(url=url), inside_cluster=True).keys == KeySource(url=url)
    with pytest.raises(ValueError, match="set insideCluster if it is inside the cluster"):
        issuer(keys=KeySource(url=url))


@pytest.mark.parametrize(
    "url",
    ["http://login.example/certs", "http://8.8.8.8/certs", "http://169.254.169.254/x", "http://svc.example/certs"],
)
def test_http_elsewhere(url: str) -> None:
    for is_inside in (True, False):
        with pytest.raises(ValueError, match="would be fetched in plaintext"):
            issuer(keys=KeySource(url=url), inside_cluster=is_inside)


def test_discovery_inside_of_the_cluster() -> None:
    url = "http://keycloak.auth.svc:8080/realms/mlops"
    assert issuer(issuer=url, inside_cluster=True).keys is None
    with pytest.raises(ValueError, match="discovered"):
        issuer(issuer=url)


BALANCER = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/models/50dc6c495c0c9188"
BALANCED = {"load_balancers": (BALANCER,), "token_from": TokenPlace(header="x-amzn-oidc-data")}


def test_issuers_behind_load_balancers() -> None:
    issuer(**BALANCED)
    issuer(**BALANCED, issuer="no URL")  # nothing is discovered there
    issuer(**BALANCED, keys=KeySource(url="https://keys.example/elb"))
    for wrong, words in (
        ({"token_from": None}, 'requires "tokenFrom"'),
        ({"audiences": (), "required_claims": {"a": "b"}}, 'requires "audiences"'),
        ({"keys": KeySource(file="keys.json")}, "one by one"),
        ({"keys": KeySource(url="http://keys.example/elb")}, "in plaintext"),
        ({"inside_cluster": True}, "leave it out"),
        ({"load_balancers": (BALANCER, BALANCER.replace("central", "west"))}, "several regions"),
    ):
        with pytest.raises(ValueError, match=words):
            issuer(**{**BALANCED, **wrong})


def test_each_token_is_of_one_issuer() -> None:
    plain, balanced = issuer(), issuer(name="people", **BALANCED)
    check_apart([plain, balanced])
    check_apart([balanced, issuer(name="others", **{**BALANCED, "load_balancers": (BALANCER[:-1] + "9",)})])
    check_apart([balanced, issuer(name="others", issuer="https://other.example", **BALANCED)])
    for others, words in (
        ([plain, issuer(issuer="https://other.example")], "two issuers have the name"),
        ([plain, issuer(name="other")], "two issuers have the issuer"),
        ([balanced, issuer(name="other", **BALANCED)], "of one load balancer"),
        ([balanced, issuer(token_from=BALANCED["token_from"])], "tokens of load balancers are in its header x-amzn"),
    ):
        with pytest.raises(ValueError, match=words):
            check_apart(others)


@pytest.mark.parametrize("keys", [None, KeySource(url="https://login.example/certs"), KeySource(file="jwks.json")])
def test_inside_cluster_where_it_says_nothing(keys: KeySource | None) -> None:
    with pytest.raises(ValueError, match="leave it out"):
        issuer(keys=keys, inside_cluster=True)


def test_a_place_is_one() -> None:
    assert TokenPlace(header="x-goog-iap-jwt-assertion").name == "header x-goog-iap-jwt-assertion"
    assert TokenPlace(cookie="session").name == "cookie session"
    for wrong in ({}, {"header": "x-a", "cookie": "b"}):
        with pytest.raises(ValueError, match="exactly one"):
            TokenPlace(**wrong)
    for header in ("cookie", "content-length", "x-meshproxy-caller", "te"):
        with pytest.raises(ValueError, match="no token is in"):
            TokenPlace(header=header)
    with pytest.raises(ValueError, match="leave it out"):
        TokenPlace(header="authorization")


def test_caller_identity_has_a_port() -> None:
    assert CallerIdentity(audience="models-prod", endpoints=("sts.eu-central-1.amazonaws.com",)).port == 443


@pytest.mark.parametrize("header", [*sorted(map(bytes.decode, LOGGED_HEADERS)), "tracestate", "b3", "x-b3-traceid"])
def test_no_token_is_where_logs_and_spans_show_it(header: str) -> None:
    with pytest.raises(ValueError, match="logs and spans show"):
        TokenPlace(header=header)


def test_claims_that_are_required_by_path() -> None:
    here = ClaimAtPath(path=("https://corp.example/app",), exact="mesh")
    assert issuer(audiences=(), required_claim_paths=(here,)).required_claim_paths == (here,)
    with pytest.raises(ValueError, match="whether a claim is present"):
        issuer(audiences=(), required_claim_paths=(ClaimAtPath(path=("app",), present=True),))
    for among in (
        ClaimAtPath(path=("app",), any_of=("mesh", TextMatch(present=True))),
        ClaimAtPath(path=("app",), all_of=(TextMatch(present=True),)),
    ):
        with pytest.raises(ValueError, match="whether a claim is present"):
            issuer(audiences=(), required_claim_paths=(among,))
    both = ClaimAtPath(path=("app",), all_of=(TextMatch(present=True), "mesh"))
    assert issuer(audiences=(), required_claim_paths=(both,)).required_claim_paths == (both,)
    for name in ("aud", "iss", "exp"):
        with pytest.raises(ValueError, match="does not tell what a token is for"):
            issuer(required_claim_paths=(ClaimAtPath(path=(name,), exact="mesh"),))
    issuer(required_claim_paths=(ClaimAtPath(path=("app", "aud"), exact="mesh"),))


def test_one_claim_stands_for_the_subject() -> None:
    issuer(subject_fallback_path=("https://corp.example/client",))
    with pytest.raises(ValueError, match="keep one"):
        issuer(subject_fallback="a", subject_fallback_path=("b",))
