"""What is asked for an upgrade, and that nothing of it is written."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from meshproxy.control.finding import Unknown
from meshproxy.control.upgrade_facts import MANAGER, TRIES, gather, left_over
from meshproxy.control.upgrade_plan import Absent, Applied, LeftOver, Refused
from meshproxy.installation.kinds import kind_of

SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "s", "namespace": "mesh"},
    "spec": {"a": "b"},
}
SERVED = {"resources": [{"name": "services"}]}
PATH = "/api/v1/namespaces/mesh/services/s"


def client(answers: dict[str, Any], requests: list[httpx2.Request]) -> httpx2.AsyncClient:
    """Answers by method and path: a status, or a page; others with 404."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        found = answers.get(f"{request.method} {request.url.path}", 404)
        if isinstance(found, int):
            return httpx2.Response(found, json={"message": "its words"})
        return httpx2.Response(200, json=found)

    return httpx2.AsyncClient(base_url="https://cluster.example", transport=httpx2.MockTransport(answer))


async def ask(answers: dict[str, Any], wanted: dict[str, Any] = SERVICE) -> tuple[Any, list[httpx2.Request]]:
    requests: list[httpx2.Request] = []
    async with client(answers, requests) as caller:
        (found,) = await gather(caller, [wanted])
    for request in requests:
        assert request.method == "GET" or request.url.params["dryRun"] == "All"
    return found, requests


def entry(manager: str, operation: str, *names: str) -> Any:
    return {"manager": manager, "operation": operation, "fieldsV1": {"f:spec": {f"f:{name}": {} for name in names}}}


async def test_what_would_be_applied() -> None:
    after = SERVICE | {"spec": {"a": "c"}}
    found, requests = await ask({f"GET {PATH}": SERVICE, f"PATCH {PATH}": after})
    assert found == Applied(SERVICE, after)
    _, patch = requests
    assert patch.headers["content-type"] == "application/apply-patch+yaml"
    assert dict(patch.url.params) == {
        "dryRun": "All", "fieldManager": MANAGER, "fieldValidation": "Strict", "force": "true",
    }  # fmt: skip
    assert json.loads(patch.content) == SERVICE


async def test_fields_that_were_applied_before_go() -> None:
    metadata = {**SERVICE["metadata"], "resourceVersion": "7"}
    old = entry("kubectl-client-side-apply", "Update", "a", "b")
    live = SERVICE | {"metadata": {**metadata, "managedFields": [old]}, "spec": {"a": "b", "b": "c"}}
    both = [old, entry(MANAGER, "Apply", "a")]
    merged = live | {"metadata": {**metadata, "managedFields": both}}
    defaulted = SERVICE | {"spec": {"a": "b", "b": "default"}}
    found, requests = await ask({f"GET {PATH}": live, f"PATCH {PATH}": merged, f"PUT {PATH}": defaulted})
    assert found == Applied(live, defaulted)
    assert json.loads(requests[-1].content) == SERVICE | {"metadata": metadata}


@pytest.mark.parametrize("times", [1, TRIES - 1, TRIES])
async def test_an_object_that_is_changed_in_between(times: int) -> None:
    """By a controller, which writes its status."""
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.method)
        is_changed = request.method == "PATCH" and asked.count("PATCH") <= times
        return httpx2.Response(409 if is_changed else 200, json={"message": "modified"} if is_changed else SERVICE)

    async with httpx2.AsyncClient(base_url="https://c", transport=httpx2.MockTransport(answer)) as caller:
        (found,) = await gather(caller, [SERVICE])
    assert isinstance(found, Unknown if times == TRIES else Applied)
    assert asked == ["GET", "PATCH"] * min(times + 1, TRIES)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({}, Refused("the API server does not serve services in v1: meshproxy check --pre")),
        ({"GET /api/v1": SERVED}, Refused("the API server answered 404: its words")),
        ({"GET /api/v1": 403}, Unknown("the API server answered 403: its words")),
        ({f"PATCH {PATH}": SERVICE}, Absent()),
        ({f"PATCH {PATH}": 422}, Refused("the API server answered 422: its words")),
        ({f"GET {PATH}": 403}, Unknown("the API server answered 403: its words")),
        ({f"GET {PATH}": SERVICE, f"PATCH {PATH}": 422}, Refused("the API server answered 422: its words", SERVICE)),
        ({f"GET {PATH}": SERVICE, f"PATCH {PATH}": 503}, Unknown("the API server answered 503: its words")),
    ],
    ids=[
        "no kind",
        "no namespace",
        "may not discover",
        "new",
        "refused",
        "may not look",
        "a change is refused",
        "no answer",
    ],
)
async def test_what_comes_to_nothing(answers: dict[str, Any], expected: Any) -> None:
    found, _ = await ask(answers)
    assert found == expected


async def test_what_comes_before_is_there_then() -> None:
    """A namespace for its objects, a definition for those of its kind."""
    role = {"apiVersion": "meshproxy.dev/v1alpha1", "kind": "ModelRole", "metadata": {"name": "r", "namespace": "x"}}
    before = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mesh"}},
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "modelroles.meshproxy.dev"},
        },
    ]
    made = {"resources": [{"name": name} for name in ("services", "namespaces")]}
    answers = {"GET /api/v1": made, "GET /apis/apiextensions.k8s.io/v1": {"resources": []}}
    for each in before:
        metadata = each["metadata"]
        assert isinstance(metadata, dict)
        answers[f"PATCH {kind_of(each).path('', metadata['name'])}"] = each
    async with client(answers, []) as caller:
        assert await gather(caller, [*before, SERVICE, role]) == [Absent()] * 4
        assert [type(each) for each in await gather(caller, [SERVICE, role])] == [Refused, Refused]


async def test_what_is_left_over() -> None:
    kinds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    names = {
        "/api/v1/services": [{"name": "s", "namespace": "mesh"}, {"name": "old", "namespace": "mesh"}],
        kinds: [{"name": "modelrollouts.meshproxy.dev"}, {"name": "others.example"}, {"name": "notmeshproxy.dev"}],
    }
    answers = {f"GET {path}": {"items": [{"metadata": each} for each in found]} for path, found in names.items()}
    requests: list[httpx2.Request] = []
    async with client(answers, requests) as caller:
        found = await left_over(caller, [SERVICE])
    definition = kind_of({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"})
    assert found == [
        LeftOver(definition, "modelrollouts.meshproxy.dev"),
        LeftOver(kind_of(SERVICE), "old", "mesh"),
    ]
    asked = {request.url.path: request.url.params.get("labelSelector") for request in requests}
    assert asked["/api/v1/services"] == "app.kubernetes.io/part-of=meshproxy"
    assert asked[kinds] is None


async def test_kinds_that_may_not_be_listed() -> None:
    async with client({"GET /api/v1/services": 403}, []) as caller:
        assert await left_over(caller, []) == Unknown("the API server answered 403: its words")
