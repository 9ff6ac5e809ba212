"""What an API server says to the questions of `check --pre`, without a server. tests/e2e asks a real one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import httpx2

from meshproxy.installation.choices import Injection
from meshproxy.installation.kinds import TOKEN_REVIEWS, ObjectKind, Plan, kinds

NOW = 1_767_355_200.0
"""Seconds since the epoch, by the clock of the cluster."""


def served(plans: tuple[Plan, ...] = (Plan(cert_manager=True), Plan(Injection.POLICY))) -> dict[str, list[str]]:
    """What a new cluster with cert-manager serves."""
    found: dict[str, list[str]] = {}
    every: list[ObjectKind] = [kind for plan in plans for kind in kinds(plan)]
    for kind in (*every, TOKEN_REVIEWS):
        path = f"/api/{kind.api_version}" if kind.api_version == "v1" else f"/apis/{kind.api_version}"
        found.setdefault(path, []).append(kind.resource)
    return found


def node(name: str = "node-1", kubelet: str = "v1.37.2", *addresses: str) -> dict[str, Any]:
    shown = [{"type": "InternalIP", "address": each} for each in addresses or ("192.0.2.1", "2001:db8::1")]
    return {"metadata": {"name": name}, "status": {"nodeInfo": {"kubeletVersion": kubelet}, "addresses": shown}}


@dataclass
class FakeCluster:
    """Answers requests; `answers` has what is not usual, by method and path: a status, or a page."""

    answers: dict[str, Any] = field(default_factory=dict)
    release: str = "v1.37.2"
    served: dict[str, list[str]] = field(default_factory=served)
    denied: set[str] = field(default_factory=set)
    """Verbs and resources, as in `create services`."""
    definitions: dict[str, Any] = field(default_factory=dict)
    namespaces: list[Any] = field(default_factory=lambda: [{"metadata": {"name": "default"}}])
    nodes: list[Any] = field(default_factory=lambda: [node()])
    pods: list[Any] = field(default_factory=list)
    documents: dict[str, list[Any]] = field(default_factory=dict)
    """By their path: the kinds that are there."""
    date: float | None = NOW
    requests: list[httpx2.Request] = field(default_factory=list)

    def client(self, *_: object) -> httpx2.AsyncClient:
        """One that asks this cluster."""
        return httpx2.AsyncClient(base_url="https://cluster.example", transport=httpx2.MockTransport(self._answer))

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        headers = {} if self.date is None else {"date": formatdate(self.date, usegmt=True)}
        found = self.answers.get(f"{request.method} {request.url.path}")
        if isinstance(found, Exception):
            raise found
        if isinstance(found, int):
            status = {"kind": "Status", "message": f"you may not {request.method} {request.url.path}"}
            return httpx2.Response(found, json=status, headers=headers)
        page = found if found is not None else self._page(request)
        return httpx2.Response(404 if page is None else 200, json=page, headers=headers)

    def _page(self, request: httpx2.Request) -> Any:
        path = request.url.path
        if path in self.served:
            return {"resources": [{"name": name} for name in self.served[path]]}
        if path.startswith("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"):
            return self.definitions.get(path.rpartition("/")[2])
        if path.endswith("/selfsubjectaccessreviews"):
            asked = json.loads(request.content)["spec"]["resourceAttributes"]
            return {"status": {"allowed": f"{asked['verb']} {asked['resource']}" not in self.denied}}
        if path.endswith("/tokenreviews"):
            return {"status": {"authenticated": False, "error": "invalid bearer token"}}
        lists = {
            "/api/v1/namespaces": self.namespaces,
            "/api/v1/nodes": self.nodes,
            "/api/v1/pods": self.pods,
            **self.documents,
        }
        if path in lists:
            # Two pages, if there are two objects or more.
            at = int(request.url.params.get("continue", "0"))
            rest = lists[path][at + 1 :]
            return {"items": lists[path][at : at + 1], "metadata": {"continue": str(at + 1)} if rest else {}}
        return {"gitVersion": self.release} if path == "/version" else None
