"""An API server of Kubernetes that reviews tokens and knows pods; tests/e2e holds it against the real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from lightkube import AsyncClient, KubeConfig
from lightkube.config.models import Cluster, User

from meshproxy.control.service_accounts import AUDIENCE, PodIdentity
from tests.control.pod_tokens import POD

Object = dict[str, Any]


def reviewed(pod: PodIdentity = POD, *, audiences: list[str] | None = None, extra: Object | None = None) -> Object:
    """The status of the review of a token of a pod."""
    names = {
        "authentication.kubernetes.io/credential-id": ["JTI=e0f6f4d4-0000-4000-8000-000000000002"],
        "authentication.kubernetes.io/pod-name": [pod.pod],
        "authentication.kubernetes.io/pod-uid": [pod.pod_uid],
    }
    return {
        "authenticated": True,
        "audiences": [AUDIENCE] if audiences is None else audiences,
        "user": {
            "username": f"system:serviceaccount:{pod.namespace}:{pod.service_account}",
            "uid": "11111111-0000-4000-8000-000000000003",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{pod.namespace}", "system:authenticated"],
            "extra": {name: value for name, value in {**names, **(extra or {})}.items() if value is not None},
        },
    }


def pod_object(pod: PodIdentity = POD, phase: str = "Pending") -> Object:
    """A pod as the cluster has it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.pod, "namespace": pod.namespace, "uid": pod.pod_uid},
        "spec": {"serviceAccountName": pod.service_account, "containers": [{"name": "a", "image": "a"}]},
        "status": {"phase": phase},
    }


class FakeReviews:
    """Pods, and what tokens are.

    Attributes:
        reviews: the status that each token gets; others are not authenticated.
        asked: methods and paths, in order.
        fails: the status with which it answers a path that begins like this.
        may_answer: it answers nothing while this is not set.
        most_at_once: requests that it has had at a time.
    """

    def __init__(self) -> None:
        self.pods: dict[str, Object] = {}
        self.reviews: dict[str, Object] = {}
        self.asked: list[str] = []
        self.fails: dict[str, int] = {}
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.most_at_once = 0
        self._at_once = 0
        self.url = ""
        self._clients: list[AsyncClient] = []

    @classmethod
    @asynccontextmanager
    async def serve(cls) -> AsyncIterator[FakeReviews]:
        """One on loopback until the end of the block."""
        server = cls()
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", server._answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = "http://{}:{}".format(*runner.addresses[0])
        try:
            yield server
        finally:
            server.may_answer.set()
            for client in server._clients:
                await client.close()
            await runner.cleanup()

    def client(self) -> AsyncClient:
        """A client that asks it, closed with it."""
        client = AsyncClient(KubeConfig.from_one(cluster=Cluster(server=self.url), user=User()), trust_env=False)
        self._clients.append(client)
        return client

    def add_pod(self, pod: PodIdentity = POD, phase: str = "Pending") -> None:
        self.pods[f"/api/v1/namespaces/{pod.namespace}/pods/{pod.pod}"] = pod_object(pod, phase)

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        body = json.loads(await request.read() or b"null")
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await self.may_answer.wait()
        finally:
            self._at_once -= 1
        for prefix, status in self.fails.items():
            if request.path.startswith(prefix):
                return _status(status, "Failed", "made to fail")
        if request.path == "/apis/authentication.k8s.io/v1/tokenreviews":
            rejected = {"authenticated": False, "user": {}, "error": "[invalid bearer token, unknown]"}
            return web.json_response({**body, "status": self.reviews.get(body["spec"]["token"], rejected)}, status=201)
        found = self.pods.get(request.path)
        return _status(404, "NotFound", "pod not found") if found is None else web.json_response(found)


def _status(code: int, reason: str, message: str) -> web.Response:
    status = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason}
    return web.json_response({**status, "message": message}, status=code)
