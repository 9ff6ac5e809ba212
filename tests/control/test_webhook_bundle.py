"""The caBundle, with a client that is made up; tests/e2e has a real API server."""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import Any, cast

import httpx2
import pytest
from lightkube import AsyncClient
from lightkube.models.admissionregistration_v1 import MutatingWebhook, WebhookClientConfig
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration
from lightkube.types import PatchType

from meshproxy.control import webhook_bundle as module
from meshproxy.control.webhook_bundle import BundleKeeper
from tests.processes.waiting import until


class Cluster:
    """One configuration with two webhooks, and the patches that it got."""

    def __init__(self) -> None:
        self.bundles: dict[str, str | None] = {"a.meshproxy.dev": None, "b.meshproxy.dev": None}
        self.patches: list[Any] = []
        self.failure: Exception | None = None

    async def get(self, kind: Any, name: str) -> MutatingWebhookConfiguration:
        assert (kind, name) == (MutatingWebhookConfiguration, "meshproxy")
        if self.failure is not None:
            raise self.failure
        webhooks = [
            MutatingWebhook(["v1"], WebhookClientConfig(caBundle=bundle), name=each, sideEffects="None")
            for each, bundle in self.bundles.items()
        ]
        return MutatingWebhookConfiguration(metadata=ObjectMeta(name=name), webhooks=webhooks)

    async def patch(self, kind: Any, name: str, patch: Any, *, patch_type: PatchType) -> None:
        assert (kind, name, patch_type) == (MutatingWebhookConfiguration, "meshproxy", PatchType.STRATEGIC)
        self.patches.append(patch)
        for each in patch["webhooks"]:
            self.bundles[each["name"]] = each["clientConfig"]["caBundle"]


def keeper(cluster: Cluster, bundle: list[bytes]) -> BundleKeeper:
    return BundleKeeper(cast("AsyncClient", cluster), "meshproxy", lambda: bundle[-1])


def coded(bundle: bytes) -> str:
    return base64.b64encode(bundle).decode()


async def test_only_what_differs_is_written() -> None:
    cluster = Cluster()
    cluster.bundles["a.meshproxy.dev"] = coded(b"one")
    keeping = keeper(cluster, [b"one"])
    await keeping.look()
    await keeping.look()
    (patch,) = cluster.patches
    assert patch == {"webhooks": [{"name": "b.meshproxy.dev", "clientConfig": {"caBundle": coded(b"one")}}]}


async def test_a_new_bundle_and_one_that_was_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, bundle = Cluster(), [b"one"]
    keeping = keeper(cluster, bundle)
    task = asyncio.create_task(keeping.run())
    await until(lambda: cluster.bundles["a.meshproxy.dev"] == coded(b"one"))
    bundle.append(b"two")
    keeping.changed()
    await until(lambda: cluster.bundles["a.meshproxy.dev"] == coded(b"two"))
    monkeypatch.setattr(module, "PERIOD", 0.001)
    keeping.changed()
    cluster.bundles["a.meshproxy.dev"] = None  # somebody has applied it again
    await until(lambda: cluster.bundles["a.meshproxy.dev"] == coded(b"two"))
    task.cancel()


async def test_a_failure_is_told_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.001)
    cluster = Cluster()
    cluster.failure = httpx2.ConnectError("no route")
    task = asyncio.create_task(keeper(cluster, [b"one"]).run())
    await until(lambda: caplog.records)
    cluster.failure = None
    await until(lambda: cluster.bundles["a.meshproxy.dev"] == coded(b"one"))
    task.cancel()
    assert len([each for each in caplog.records if each.levelno == logging.ERROR]) == 1
