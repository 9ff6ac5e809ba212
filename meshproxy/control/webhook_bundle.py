"""The `caBundle` of a MutatingWebhookConfiguration: by it the API server knows the injector's certificate."""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import TYPE_CHECKING

import httpx2
from lightkube import ApiError
from lightkube.core.exceptions import LoadResourceError
from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration
from lightkube.types import PatchType

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightkube import AsyncClient

logger = logging.getLogger(__name__)

PERIOD = 30.0
"""Seconds between two looks: somebody may have applied the configuration again, without it."""
RETRY = 2.0
"""Seconds after a failure."""


class BundleKeeper:
    """Keeps one configuration.

    Args:
        client: of the cluster. It must be allowed to get and patch this configuration.
        name: of the configuration.
        bundle: gives the certificates (PEM) of the moment.
    """

    def __init__(self, client: AsyncClient, name: str, bundle: Callable[[], bytes]) -> None:
        self._client = client
        self._name = name
        self._bundle = bundle
        self._changed = asyncio.Event()
        self._problem = ""

    def changed(self) -> None:
        """There is another bundle."""
        self._changed.set()

    async def run(self) -> None:
        """Keep it until cancelled, whatever happens."""
        while True:
            self._changed.clear()
            try:
                await self.look()
                self._problem, seconds = "", PERIOD
            except (ApiError, LoadResourceError, httpx2.HTTPError, OSError) as error:
                if str(error) != self._problem:
                    fields = {"configuration": self._name, "problem": str(error)}
                    logger.error("the webhook's caBundle is not kept; trying again", extra={"fields": fields})
                self._problem, seconds = str(error), RETRY
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def look(self) -> None:
        """Write the bundle where it is another one. Raises as lightkube and httpx2 do."""
        text = base64.b64encode(self._bundle()).decode()
        found = await self._client.get(MutatingWebhookConfiguration, self._name)
        stale = [each.name for each in found.webhooks or () if each.clientConfig.caBundle != text]
        if not stale:
            return
        # The names are the merge keys: nothing else is changed.
        patch = {"webhooks": [{"name": name, "clientConfig": {"caBundle": text}} for name in stale]}
        await self._client.patch(MutatingWebhookConfiguration, self._name, patch, patch_type=PatchType.STRATEGIC)
        logger.info("the webhook's caBundle is new", extra={"fields": {"configuration": self._name}})
