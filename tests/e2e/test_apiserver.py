"""What the other tests of this folder rely on."""

from __future__ import annotations

import pytest
from lightkube import ApiError, AsyncClient
from lightkube.models.authentication_v1 import TokenReviewSpec
from lightkube.resources.authentication_v1 import TokenReview
from lightkube.resources.core_v1 import ConfigMap

from meshproxy.control.cluster import connect
from tests.e2e.apiserver import Cluster
from tests.e2e.conftest import TestNamespace


async def test_a_token_of_a_service_account_for_us(client: AsyncClient, namespace: TestNamespace) -> None:
    token = await namespace.token("sidecar", audience="identity.meshproxy.dev")
    review = await client.create(TokenReview(TokenReviewSpec(audiences=["identity.meshproxy.dev"], token=token)))
    assert review.status is not None
    assert review.status.authenticated
    assert review.status.audiences == ["identity.meshproxy.dev"]
    assert review.status.user is not None
    assert review.status.user.username == f"system:serviceaccount:{namespace.name}:sidecar"


async def test_a_client_of_a_service_account(namespace: TestNamespace) -> None:
    client = connect(await namespace.kubeconfig("control"))
    assert client.namespace == namespace.name
    with pytest.raises(ApiError, match="cannot get resource"):  # it may do nothing of its own accord
        await client.get(ConfigMap, "anything")
    await client.close()


def test_kubectl(cluster: Cluster) -> None:
    assert "Server Version: v1.37.2" in cluster.kubectl("version")
