"""The authority of a mesh in a Secret of Kubernetes, so that every control plane in the cluster has the same one.

What it contains is in `secret_content`. The folder of a control plane has a copy, so that it can start again while the
API server is away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Secret

from meshproxy.control.authority import Authority
from meshproxy.control.cluster import FAILURES, http_status, why
from meshproxy.control.root_rotation import StoredAuthority
from meshproxy.control.secret_content import Content, data_of, read_content
from meshproxy.control.store import AuthorityCopy, StoreError, say_new_root

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightkube import AsyncClient

    from meshproxy.control.store import FolderStore

logger = logging.getLogger(__name__)

PERIOD = 1.0
"""Seconds between two looks at the Secret, which has a few kilobytes. A watch would say sooner what has changed, but
not that nothing has, which is what a control plane has to know and to say before a step of a rotation (`presence`)."""
RIGHTS = "get and create it (`meshproxy install`)"


class AuthoritySecret:
    """One Secret, and the folder with its copy.

    Attributes:
        read_at: when the question was sent whose answer the folder has, seconds since the epoch; 0: none has come.
    """

    def __init__(
        self,
        client: AsyncClient,
        name: str,
        store: FolderStore,
        trust_domain: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is asked yet.

        Args:
            client: of the cluster; its namespace is the Secret's.
            name: of the Secret.
            store: the folder that gets the copy.
            trust_domain: of the authority.
            clock: seconds since the epoch.
        """
        self.read_at = 0.0
        self._clock = clock
        self._client = client
        self._name = name
        self._where = f"{client.namespace}/{name}"
        self._store = store
        self._trust_domain = trust_domain
        self._version: str | None = None

    async def bring(self, now: float) -> None:
        """Have the authority of the Secret in the folder. The Secret is made if there is none: with what is in the
        folder, or else a new root; of several control planes that do so at once, one does.

        Raises:
            StoreError: the Secret cannot be used, or the API server is away and the folder has no copy.
        """
        asked = self._clock()
        try:
            secret = await self._read() or await self._create(now) or await self._read()
        except _Away as error:
            copy = await asyncio.to_thread(self._store.copy)
            if copy is None or copy.secret != self._where:
                raise StoreError(f"the Secret {self._where} cannot be read: {error}") from None
            fields = {"secret": self._where, "problem": str(error)}
            logger.warning("authority not read; starting with the copy in the folder", extra={"fields": fields})
            return
        if secret is None:
            raise StoreError(f"the Secret {self._where} was deleted while it was made: start again")
        await self._copy(secret, asked)

    async def follow(self) -> None:
        """Copy what others write into the Secret, until cancelled."""
        problem = ""
        while True:
            await asyncio.sleep(PERIOD)
            asked = self._clock()
            try:
                secret = await self._read()
                if secret is None:
                    raise StoreError(f"the Secret {self._where} was deleted: create it again")
                await self._copy(secret, asked)
            except (StoreError, _Away) as error:
                if str(error) != problem:
                    fields = {"secret": self._where, "problem": str(error)}
                    logger.error("authority not read; keeping the previous one", extra={"fields": fields})
                problem = str(error)
            else:
                problem = ""

    async def _read(self) -> Secret | None:
        """None: there is none. Raises _Away."""
        try:
            return await self._client.get(Secret, self._name)
        except FAILURES as error:
            if http_status(error) == HTTPStatus.NOT_FOUND:
                return None
            raise _Away(why(error, RIGHTS)) from error

    async def _create(self, now: float) -> Secret | None:
        """None: another control plane has made it. Raises _Away and StoreError."""
        found = await asyncio.to_thread(self._store.find_authority)
        authority = found or Authority.create(self._trust_domain, now)
        data = {name: text for name, text in data_of(Content(authority)).items() if text is not None}
        secret = Secret(metadata=ObjectMeta(name=self._name), type="kubernetes.io/tls", data=data)
        try:
            made = await self._client.create(secret)
        except FAILURES as error:
            if http_status(error) == HTTPStatus.CONFLICT:
                return None
            raise _Away(why(error, RIGHTS)) from error
        if found is None:
            say_new_root(f"the Secret {self._where}", authority)
        else:
            logger.info("authority stored", extra={"fields": {"secret": self._where, "signs": authority.id}})
        return made

    async def _copy(self, secret: Secret, asked: float) -> None:
        """Write the folder if the Secret is another than before, or the copy is gone. Raises StoreError."""
        version = secret.metadata.resourceVersion if secret.metadata is not None else None
        if version is None or version != self._version or not self._store.has_copy:
            content = read_content(secret.data or {}, f"the Secret {self._where}")
            authority, rotation = content.authority, content.rotation
            if authority.trust_domain != self._trust_domain:
                raise StoreError(
                    f"the Secret {self._where} is the authority of trust domain {authority.trust_domain}, not of"
                    f" {self._trust_domain}: use another Secret"
                )
            stored = StoredAuthority.of(authority)
            copy = AuthorityCopy(self._where, stored)
            if rotation is not None:
                copy = AuthorityCopy(self._where, stored, rotation.step, rotation.since)
            await asyncio.to_thread(self._store.save_copy, copy)
            self._version = version
        self.read_at = asked


class _Away(Exception):
    """The API server does not say, or may not."""
