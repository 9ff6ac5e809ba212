"""A copy of the objects in a real API server: the tests of tests/control/following.py."""

from __future__ import annotations

import pytest
from lightkube.models.apiextensions_v1 import (
    CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec,
    CustomResourceDefinitionVersion,
    CustomResourceValidation,
    JSONSchemaProps,
)
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition

from tests.control.following import FollowingTests
from tests.e2e.conftest import RealServer, TestNamespace

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
