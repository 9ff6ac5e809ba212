"""Tokens of pods as a real API server signs and reviews them, and as we verify them with its keys."""

from __future__ import annotations

import ssl
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import jwt
import pytest
from lightkube import AsyncClient
from lightkube.models.authentication_v1 import TokenReviewSpec
from lightkube.models.authorization_v1 import ResourceAttributes, SelfSubjectAccessReviewSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.models.rbac_v1 import PolicyRule, RoleRef, Subject
from lightkube.resources.authentication_v1 import TokenReview
from lightkube.resources.authorization_v1 import SelfSubjectAccessReview
from lightkube.resources.core_v1 import Pod
from lightkube.resources.rbac_authorization_v1 import ClusterRoleBinding, Role, RoleBinding
from lightkube.types import PatchType

from meshproxy.control.authority import RequestRefused
from meshproxy.control.cluster import connect
from meshproxy.control.offline_tokens import ClusterKeys, OfflineTokens
from meshproxy.control.service_accounts import AUDIENCE
from meshproxy.control.token_review import TokenReviewer
from tests.control.fake_reviews import reviewed
from tests.control.pod_tokens import claims_of
from tests.e2e.conftest import TestNamespace
from tests.e2e.pods import make_pod, pod_token
from tests.processes.waiting import until

RBAC = "rbac.authorization.k8s.io"
API = "authentication.k8s.io"


async def may(client: AsyncClient, verb: str, resource: str, *, group: str = "", namespace: str = "") -> bool:
    """Whether the API server lets a client do this: rights count a moment after they were given."""
    asked = ResourceAttributes(verb=verb, resource=resource, group=group, namespace=namespace)
    spec = SelfSubjectAccessReviewSpec(resourceAttributes=asked)
    status = (await client.create(SelfSubjectAccessReview(spec))).status
    return status is not None and status.allowed


@asynccontextmanager
async def reviewer(
    namespace: TestNamespace, *, reviews: bool = True, pods: bool = True
) -> AsyncIterator[TokenReviewer]:
    """One that runs as the service account `control`, with these rights."""
    kubeconfig = await namespace.kubeconfig("control")
    account = Subject(kind="ServiceAccount", name="control", namespace=namespace.name)
    metadata = ObjectMeta(name=f"meshproxy-{namespace.name}")
    local = ObjectMeta(name="pods", namespace=namespace.name)
    if reviews:
        role = RoleRef(apiGroup=RBAC, kind="ClusterRole", name="system:auth-delegator")
        binding = ClusterRoleBinding(metadata=metadata, roleRef=role, subjects=[account])
        await namespace.client.apply(binding, field_manager="e2e")
    if pods:
        rules = [PolicyRule(apiGroups=[""], resources=["pods"], verbs=["get"])]
        await namespace.client.apply(Role(metadata=local, rules=rules), field_manager="e2e")
        role = RoleRef(apiGroup=RBAC, kind="Role", name="pods")
        await namespace.client.apply(RoleBinding(metadata=local, roleRef=role, subjects=[account]), field_manager="e2e")
    client = connect(kubeconfig)

    async def has_rights() -> bool:
        return (not reviews or await may(client, "create", "tokenreviews", group=API)) and (
            not pods or await may(client, "get", "pods", namespace=namespace.name)
        )

    try:
        await until(has_rights)
        yield TokenReviewer(client)
    finally:
        await client.close()
        if reviews:
            await namespace.client.delete(ClusterRoleBinding, metadata.name or "")


async def refused(by: TokenReviewer | OfflineTokens, token: str) -> tuple[str, str]:
    with pytest.raises(RequestRefused) as caught:
        await by.identify(token)
    return caught.value.reason, caught.value.message


def signed(namespace: TestNamespace, **claims: object) -> str:
    """A token with the key of the cluster, which the API server would not issue."""
    key = (namespace.cluster.folder / "sa.key").read_text()
    return jwt.encode({"iss": namespace.cluster.url, **claims}, key, "RS256")


async def test_a_pod_is_identified(namespace: TestNamespace) -> None:
    pod = await make_pod(namespace, "resnet-0")
    async with reviewer(namespace) as by:
        assert await by.identify(await pod_token(namespace, pod)) == pod


async def test_the_api_server_says_what_the_fake_one_says(namespace: TestNamespace) -> None:
    pod = await make_pod(namespace, "resnet-0")
    spec = TokenReviewSpec(audiences=[AUDIENCE], token=await pod_token(namespace, pod))
    status = (await namespace.client.create(TokenReview(spec))).to_dict()["status"]
    made_up = reviewed(pod)
    identifier = "authentication.kubernetes.io/credential-id"
    assert status["user"]["extra"].pop(identifier)[0].startswith("JTI=")
    assert made_up["user"]["extra"].pop(identifier)[0].startswith("JTI=")
    made_up["user"]["uid"] = status["user"]["uid"]
    assert status == made_up


async def test_refusals(namespace: TestNamespace) -> None:
    pod = await make_pod(namespace, "resnet-0")
    token = await pod_token(namespace, pod)
    async with reviewer(namespace) as by:
        assert (await refused(by, await pod_token(namespace, pod, "other.example")))[0] == "token-audience"
        assert (await refused(by, await namespace.token("resnet", AUDIENCE)))[0] == "token-not-bound"
        assert (await refused(by, token[:-2] + "AA"))[0] == "token-unauthenticated"
        now = int(time.time())
        claims = claims_of(pod, iss=namespace.cluster.url, iat=now - 900, nbf=now - 900, exp=now - 300)
        assert (await refused(by, signed(namespace, **claims)))[0] == "token-expired"
        # Which the API server does not mind.
        await namespace.client.patch(
            Pod.Status,
            "resnet-0",
            {"status": {"phase": "Failed"}},
            namespace=namespace.name,
            patch_type=PatchType.MERGE,
        )
        assert "has finished" in (await refused(by, token))[1]


async def test_a_pod_of_the_same_name(namespace: TestNamespace) -> None:
    """The API server goes on to authenticate a token for up to 10 s after its pod was deleted; we do not."""
    before = await make_pod(namespace, "resnet-0")
    token = await pod_token(namespace, before)
    async with reviewer(namespace) as by:
        assert await by.identify(token) == before
        await namespace.client.delete(Pod, "resnet-0", namespace=namespace.name, grace_period=0)
        reason, message = await refused(by, token)
        assert reason == "token-pod"
        assert "does not exist" in message
        after = await make_pod(namespace, "resnet-0")
        assert (await refused(by, token))[0] in ("token-pod", "token-unauthenticated")
        assert await by.identify(await pod_token(namespace, after)) == after


async def test_rights_that_are_missing(namespace: TestNamespace, caplog: pytest.LogCaptureFixture) -> None:
    pod = await make_pod(namespace, "resnet-0")
    token = await pod_token(namespace, pod)
    async with reviewer(namespace, reviews=False, pods=False) as by:
        reason, message = await refused(by, token)
        assert reason == "cluster"
        assert "may not create tokenreviews.authentication.k8s.io" in message
    async with reviewer(namespace, pods=False) as by:
        assert await by.identify(token) == pod
    assert any("pods cannot be read" in record.message for record in caplog.records)


async def test_tokens_are_verified_with_the_keys_of_the_cluster(namespace: TestNamespace, tmp_path: Path) -> None:
    pod = await make_pod(namespace, "resnet-0")
    keys = tmp_path / "keys.json"
    keys.write_bytes(await _key_set(namespace))
    offline = OfflineTokens(ClusterKeys(namespace.cluster.url, keys))
    assert await offline.identify(await pod_token(namespace, pod)) == pod
    assert (await refused(offline, await pod_token(namespace, pod, "other.example")))[0] == "token-audience"
    assert (await refused(offline, await namespace.token("resnet", AUDIENCE)))[0] == "token-not-bound"


async def _key_set(namespace: TestNamespace) -> bytes:
    """What `kubectl get --raw /openid/v1/jwks` prints."""
    request = urllib.request.Request(f"{namespace.cluster.url}/openid/v1/jwks")
    request.add_header("authorization", f"Bearer {await namespace.token('anyone')}")
    context = ssl.create_default_context(cafile=str(namespace.cluster.ca))
    with urllib.request.urlopen(request, context=context) as response:
        return bytes(response.read())
