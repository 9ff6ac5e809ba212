"""What is asked of a cluster, and what is made of its answers."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import msgspec
import pytest

from meshproxy.config import crds, schema
from meshproxy.control.cluster_facts import gather
from meshproxy.control.crd_changes import Definition
from meshproxy.control.finding import Unknown
from meshproxy.control.precheck import Facts, Namespace, Node, Object
from meshproxy.installation.kinds import Plan, Right
from tests.control.fake_cluster import NOW, FakeCluster, node

PLAN = Plan()


async def facts_of(cluster: FakeCluster, plan: Plan = PLAN) -> Facts:
    async with cluster.client() as client:
        found = await gather(client, plan, lambda: NOW)
    assert isinstance(found, Facts)
    return found


async def test_all_that_is_asked() -> None:
    namespaces = [
        {"metadata": {"name": "a", "labels": {"x": "y"}}},
        {"metadata": {"name": "b", "annotations": {"x": "z"}, "deletionTimestamp": "2026-01-01T00:00:00Z"}},
        {"metadata": {"name": "c"}},
    ]
    definition = crds.definition(schema.Sidecar)
    cluster = FakeCluster(
        namespaces=namespaces,
        nodes=[node("one", "v1.28.1", "192.0.2.1"), node("two")],
        denied={"create services"},
        definitions={"sidecars.meshproxy.dev": definition},
        pods=[{"metadata": {"name": "web", "namespace": "a", "labels": {"x": "y"}}}],
        documents={"/apis/meshproxy.dev/v1alpha1/modelroles": [{"metadata": {"name": "r", "namespace": "b"}}]},
    )
    facts = await facts_of(cluster)
    assert (facts.release, facts.clock_ahead, facts.token_review) == ("v1.37.2", 0.5, "")
    assert "services" in _known(facts.served["v1"])
    assert facts.rights[Right("create", "", "services", "meshproxy")] is False
    assert facts.rights[Right("patch", "", "namespaces")] is True
    assert facts.definitions["sidecars.meshproxy.dev"] == msgspec.convert(definition, Definition)
    assert facts.definitions["modelroles.meshproxy.dev"] is None
    assert facts.namespaces == [
        Namespace("a", {"x": "y"}, {}),
        Namespace("b", {}, {"x": "z"}, is_ending=True),
        Namespace("c", {}, {}),
    ]
    assert facts.misled_pods == [Object("a", "web", {"x": "y"})]
    assert facts.documents["modelroles.meshproxy.dev"] == [Object("b", "r", {})]
    assert facts.documents["sidecars.meshproxy.dev"] == []  # a kind that is not there
    (asked,) = [request for request in cluster.requests if request.url.path == "/api/v1/pods"]
    assert asked.url.params["labelSelector"] == "meshproxy.dev/inject,meshproxy.dev/inject notin (enabled,disabled)"
    assert facts.nodes == [Node("one", "v1.28.1", has_ipv6=False), Node("two", "v1.37.2", has_ipv6=True)]
    written = [request for request in cluster.requests if request.method != "GET"]
    assert {request.url.path.rpartition("/")[2] for request in written} == {"selfsubjectaccessreviews", "tokenreviews"}


def _known(found: frozenset[str] | Unknown) -> frozenset[str]:
    assert isinstance(found, frozenset)
    return found


async def test_namespaces_are_asked_of_where_objects_have_one() -> None:
    cluster = FakeCluster()
    await facts_of(cluster, Plan(namespace="mesh"))
    asked = [
        json.loads(request.content)["spec"]["resourceAttributes"]
        for request in cluster.requests
        if request.url.path.endswith("/selfsubjectaccessreviews")
    ]
    where = {(each["resource"], each.get("namespace")) for each in asked}
    assert ("services", "mesh") in where
    assert ("clusterroles", None) in where


async def test_what_is_not_allowed_is_unknown() -> None:
    forbidden = (
        "GET /version", "GET /api/v1", "GET /api/v1/namespaces", "GET /api/v1/nodes", "GET /api/v1/pods",
        "GET /apis/meshproxy.dev/v1alpha1/modelroles",
        "POST /apis/authentication.k8s.io/v1/tokenreviews",
        "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "GET /apis/apiextensions.k8s.io/v1/customresourcedefinitions/sidecars.meshproxy.dev",
    )  # fmt: skip
    facts = await facts_of(FakeCluster(answers=dict.fromkeys(forbidden, 403)))
    found = (
        facts.release, facts.served["v1"], facts.namespaces, facts.nodes, facts.token_review,
        facts.rights[Right("get", "", "namespaces")], facts.definitions["sidecars.meshproxy.dev"],
        facts.misled_pods, facts.documents["modelroles.meshproxy.dev"],
    )  # fmt: skip
    for each in found:
        assert isinstance(each, Unknown)
        assert each.why.startswith("the API server answered 403: you may not ")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (401, "the API server answered 401: you may not GET /version"),
        (httpx2.ConnectError("refused"), "no answer (ConnectError: refused)"),
    ],
)
async def test_an_api_server_that_cannot_be_asked(answer: Any, why: str) -> None:
    cluster = FakeCluster(answers={"GET /version": answer})
    async with cluster.client() as client:
        assert await gather(client, PLAN, lambda: NOW) == Unknown(why)
    assert len(cluster.requests) == 1


async def test_an_api_that_is_not_there() -> None:
    cluster = FakeCluster(answers={"POST /apis/authentication.k8s.io/v1/tokenreviews": 404})
    del cluster.served["/apis/admissionregistration.k8s.io/v1"]
    facts = await facts_of(cluster)
    assert facts.served["admissionregistration.k8s.io/v1"] == frozenset()
    assert facts.token_review == "TokenReviews are not served"


async def test_a_clock_that_is_ahead() -> None:
    assert (await facts_of(FakeCluster(date=NOW + 60))).clock_ahead == 60.5
    assert isinstance((await facts_of(FakeCluster(date=None))).clock_ahead, Unknown)


@pytest.mark.parametrize("page", [[], {"items": {}}, {"gitVersion": 1}, "text"], ids=str)
async def test_a_page_that_is_none(page: Any) -> None:
    """Of something that is no API server."""
    facts = await facts_of(FakeCluster(answers={"GET /api/v1/nodes": page, "GET /version": page}))
    assert isinstance(facts.nodes, Unknown)


async def test_reviewers_that_take_anything() -> None:
    page = {"status": {"authenticated": True}}
    cluster = FakeCluster(answers={"POST /apis/authentication.k8s.io/v1/tokenreviews": page})
    assert "no token for one" in str((await facts_of(cluster)).token_review)
