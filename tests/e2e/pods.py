"""Pods of a cluster without nodes: they are pending for ever, and can have tokens."""

from __future__ import annotations

from lightkube.models.core_v1 import Container, PodSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Pod, ServiceAccount

from meshproxy.control.service_accounts import AUDIENCE, PodIdentity
from meshproxy.devtools.node.tokens import request_token
from tests.e2e.conftest import TestNamespace


async def make_pod(namespace: TestNamespace, name: str, account: str = "resnet") -> PodIdentity:
    """A pod that runs as a service account, which is made if it does not exist."""
    client = namespace.client
    await client.apply(ServiceAccount(metadata=ObjectMeta(name=account, namespace=namespace.name)), field_manager="e2e")
    spec = PodSpec(containers=[Container(name="app", image="app")], serviceAccountName=account)
    pod = await client.create(Pod(metadata=ObjectMeta(name=name, namespace=namespace.name), spec=spec))
    assert pod.metadata is not None
    assert pod.metadata.uid is not None
    return PodIdentity(namespace.name, account, name, pod.metadata.uid)


async def pod_token(namespace: TestNamespace, pod: PodIdentity, audience: str = AUDIENCE) -> str:
    """What the kubelet projects into a pod."""
    bound = (pod.pod, pod.pod_uid)
    return await request_token(namespace.client, namespace.name, pod.service_account, audience=audience, pod=bound)
