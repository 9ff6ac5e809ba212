"""A copy of the objects in a real API server: the tests of tests/control/following.py."""

from __future__ import annotations

import pytest
from lightkube import AsyncClient
from lightkube.models.apiextensions_v1 import (
    CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec,
    CustomResourceDefinitionVersion,
    CustomResourceValidation,
    JSONSchemaProps,
)
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.models.rbac_v1 import PolicyRule, RoleRef, Subject
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.rbac_authorization_v1 import Role, RoleBinding

from meshproxy.control.cluster import connect
from tests.control.following import FollowingTests
from tests.e2e.conftest import TestNamespace


class RealServer:
    """`following.Server`."""

    def __init__(self, namespace: TestNamespace) -> None:
        self.client = namespace.client
        self.namespace = namespace.name
        self._namespace = namespace

    async def stop(self) -> None:
        self._namespace.cluster.stop("kube-apiserver")

    async def start(self) -> None:
        self._namespace.cluster.start_apiserver()

    async def forget_history(self) -> None:
        """The API server keeps events in memory for a while, whether etcd has been compacted or not."""
        self._namespace.cluster.compact()
        await self.stop()
        await self.start()

    async def forbid(self) -> AsyncClient:
        return connect(await self._namespace.kubeconfig("reader"))

    async def allow(self) -> None:
        metadata = ObjectMeta(name="reader", namespace=self.namespace)
        rules = [PolicyRule(apiGroups=["tests.example"], resources=["widgets"], verbs=["list", "watch"])]
        await self.client.create(Role(metadata=metadata, rules=rules))
        subject = Subject(kind="ServiceAccount", name="reader", namespace=self.namespace)
        role = RoleRef(apiGroup="rbac.authorization.k8s.io", kind="Role", name="reader")
        await self.client.create(RoleBinding(metadata=metadata, roleRef=role, subjects=[subject]))


WIDGETS = CustomResourceDefinition(
    metadata=ObjectMeta(name="widgets.tests.example"),
    spec=CustomResourceDefinitionSpec(
        group="tests.example",
        scope="Namespaced",
        names=CustomResourceDefinitionNames(kind="Widget", plural="widgets"),
        versions=[
            CustomResourceDefinitionVersion(
                name="v1",
                served=True,
                storage=True,
                schema=CustomResourceValidation(
                    openAPIV3Schema=JSONSchemaProps(type="object", properties={"size": JSONSchemaProps(type="integer")})
                ),
            )
        ],
    ),
)


@pytest.fixture
async def server(namespace: TestNamespace) -> RealServer:
    await namespace.client.apply(WIDGETS)
    await namespace.client.wait(CustomResourceDefinition, "widgets.tests.example", for_conditions=["Established"])
    return RealServer(namespace)


class TestAgainstTheRealOne(FollowingTests):
    """What is in them."""
