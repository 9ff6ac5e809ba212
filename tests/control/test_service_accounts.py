"""Which pod shows a token, by what the cluster says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.control.authority import RequestRefused
from meshproxy.control.service_accounts import (
    AUDIENCE,
    REASONS,
    PodIdentity,
    check_pod,
    has_expired,
    judge_claims,
    judge_review,
    read_claims,
)
from meshproxy.identity.jose import encode_base64url
from tests.control.fake_reviews import pod_object, reviewed
from tests.control.pod_tokens import POD, PodTokens, claims_of


def refusal(decide: Callable[..., object], *arguments: object) -> tuple[str, str]:
    with pytest.raises(RequestRefused) as caught:
        decide(*arguments)
    assert caught.value.reason in REASONS
    return caught.value.reason, caught.value.message


def unsigned(claims: object) -> str:
    return f"e30.{encode_base64url(json.dumps(claims).encode()).decode()}.AA"


def test_a_pods_token() -> None:
    claims = read_claims(PodTokens().token())
    assert judge_claims(claims) == POD
    assert POD.spiffe_id("m.example") == "spiffe://m.example/ns/models/sa/resnet"
    assert judge_review(reviewed()) == POD
    check_pod(POD, pod_object())
    check_pod(POD, pod_object(phase="Running"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aud": ["https://kubernetes.default.svc.cluster.local"]}, "token-audience"),
        ({"aud": "models"}, "token-audience"),
        ({"aud": None}, "token-audience"),
        ({"aud": {AUDIENCE: True}}, "token-audience"),
        ({"kubernetes.io": None}, "token-not-bound"),
        ({"kubernetes.io": {"namespace": "models", "serviceaccount": {"name": "resnet"}}}, "token-not-bound"),
        ({"kubernetes.io": {**claims_of()["kubernetes.io"], "pod": {"name": "resnet-0"}}}, "token-not-bound"),
        ({"kubernetes.io": {**claims_of()["kubernetes.io"], "pod": {"name": "a/b", "uid": "u"}}}, "token-malformed"),
        ({"kubernetes.io": {**claims_of()["kubernetes.io"], "pod": {"name": "a", "uid": ""}}}, "token-malformed"),
        ({"kubernetes.io": {**claims_of()["kubernetes.io"], "namespace": "other"}}, "token-malformed"),
        ({"kubernetes.io": {**claims_of()["kubernetes.io"], "serviceaccount": {"name": "x"}}}, "token-malformed"),
        ({"sub": "system:serviceaccount:models"}, "token-malformed"),
        ({"sub": "system:serviceaccount:models:resnet:x"}, "token-malformed"),
        ({"sub": "system:serviceaccount:models:a/../b"}, "token-malformed"),
        ({"sub": "system:serviceaccount:models:resnet\n"}, "token-malformed"),
        ({"sub": "system:node:n1"}, "token-malformed"),
        ({"sub": None}, "token-malformed"),
    ],
)
def test_claims_that_are_refused(changes: dict[str, Any], reason: str) -> None:
    assert refusal(read_claims, unsigned(claims_of(**changes)))[0] == reason


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c", "..", "e30.e30.", "mpj1-x", "e30." + "A" * 20_000 + ".AA"])
def test_what_is_no_token(token: str) -> None:
    assert refusal(read_claims, token)[0] == "token-malformed"


def test_a_refusal_says_what_to_do_and_nothing_of_the_token() -> None:
    assert refusal(read_claims, unsigned(claims_of(aud=["api"])))[1] == (
        "the token is not for the audience identity.meshproxy.dev: project a token with audience identity.meshproxy.dev"
        " into the pod (volumes.projected.sources.serviceAccountToken) and name its file in"
        " spec.controlPlane.serviceAccountToken"
    )


def test_expiry() -> None:
    assert has_expired({"exp": 100}, 100.0)
    assert not has_expired({"exp": 100.5}, 100.0)
    assert not has_expired({"exp": "1"}, 100.0)
    assert not has_expired({}, 100.0)


POD_NAME, POD_UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (None, "token-unauthenticated"),
        ({}, "token-unauthenticated"),
        ({"authenticated": "true"}, "token-unauthenticated"),
        ({**reviewed(), "authenticated": False}, "token-unauthenticated"),
        (reviewed(audiences=[]), "token-audience"),
        (reviewed(audiences=["https://kubernetes.default.svc"]), "token-audience"),
        ({**reviewed(), "audiences": None}, "token-audience"),
        ({**reviewed(), "user": None}, "token-not-bound"),
        ({**reviewed(), "user": {**reviewed()["user"], "extra": None}}, "token-not-bound"),
        (reviewed(extra={POD_NAME: None}), "token-not-bound"),
        (reviewed(extra={POD_UID: None}), "token-not-bound"),
        (reviewed(extra={POD_UID: []}), "token-not-bound"),
        (reviewed(extra={POD_NAME: ["a", "b"]}), "token-not-bound"),
        ({**reviewed(), "user": {**reviewed()["user"], "username": "kubernetes-admin"}}, "token-malformed"),
        ({**reviewed(), "user": {**reviewed()["user"], "username": "system:serviceaccount:a:b:c"}}, "token-malformed"),
    ],
)
def test_reviews_that_are_refused(status: object, reason: str) -> None:
    assert refusal(judge_review, status)[0] == reason


@pytest.mark.parametrize(
    ("pod", "says"),
    [
        (None, "does not exist"),
        (pod_object(PodIdentity("models", "resnet", "resnet-0", "another")), "is not the pod of the token"),
        (pod_object(PodIdentity("models", "other", POD.pod, POD.pod_uid)), "runs as another service account"),
        (pod_object(phase="Succeeded"), "has finished"),
        (pod_object(phase="Failed"), "has finished"),
        ({}, "is not the pod of the token"),
    ],
)
def test_other_pods(pod: Any, says: str) -> None:
    reason, message = refusal(check_pod, POD, pod)
    assert reason == "token-pod"
    assert says in message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
SLOTS = ("aud", "sub", "kubernetes.io", "exp")


@given(st.sampled_from(SLOTS), JSON)
def test_any_claims_are_refused_or_taken(slot: str, value: object) -> None:
    reasons = set()
    try:
        read_claims(unsigned(claims_of(**{slot: value})))
    except RequestRefused as refused:
        reasons.add(refused.reason)
    assert reasons <= REASONS


@given(JSON, JSON, JSON)
def test_any_review_is_refused(audiences: object, user: object, extra: object) -> None:
    status = {"authenticated": True, "audiences": audiences, "user": user}
    for each in (user, status, {**reviewed(), "user": {**reviewed()["user"], "extra": extra}}):
        assert refusal(judge_review, each)[0] in REASONS


@given(st.text(max_size=60))
def test_any_text_is_refused(text: str) -> None:
    assert refusal(read_claims, text)[0] == "token-malformed"
