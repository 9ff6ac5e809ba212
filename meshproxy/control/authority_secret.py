"""The authority of a mesh in a Secret of Kubernetes, so that every control plane in the cluster has the same one.

The Secret is of type kubernetes.io/tls, as cert-manager makes them: `tls.crt` is the certificate of the authority, then
those up to its root; `tls.key` is its key; `ca.crt` are the trusted roots. The folder of a control plane has a copy, so
that it can start again while the API server is away.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Secret

from meshproxy.control.authority import Authority, AuthorityError
from meshproxy.control.cluster import FAILURES, http_status, why
from meshproxy.control.root_rotation import StoredAuthority
from meshproxy.control.store import AuthorityCopy, StoreError
from meshproxy.identity.pem import read_certificates

if TYPE_CHECKING:
    from lightkube import AsyncClient

    from meshproxy.control.store import FolderStore

logger = logging.getLogger(__name__)

CERTIFICATE, KEY, ROOTS = "tls.crt", "tls.key", "ca.crt"
PERIOD = 10.0
"""Seconds between two looks at the Secret."""
RIGHTS = "get and create it (`meshproxy install`)"


class AuthoritySecret:
    """One Secret, and the folder with its copy."""

    def __init__(self, client: AsyncClient, name: str, store: FolderStore, trust_domain: str) -> None:
        """Nothing is asked yet.

        Args:
            client: of the cluster; its namespace is the Secret's.
            name: of the Secret.
            store: the folder that gets the copy.
            trust_domain: of the authority.
        """
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
        await self._copy(secret)

    async def follow(self) -> None:
        """Copy what others write into the Secret, until cancelled."""
        problem = ""
        while True:
            await asyncio.sleep(PERIOD)
            try:
                secret = await self._read()
                if secret is None:
                    raise StoreError(f"the Secret {self._where} was deleted: create it again")
                await self._copy(secret)
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
        authority = await asyncio.to_thread(self._store.find_authority) or Authority.create(self._trust_domain, now)
        content = {CERTIFICATE: authority.chain_pem, KEY: authority.key_pem, ROOTS: authority.bundle_pem}
        data = {name: base64.b64encode(text).decode() for name, text in content.items()}
        secret = Secret(metadata=ObjectMeta(name=self._name), type="kubernetes.io/tls", data=data)
        try:
            made = await self._client.create(secret)
        except FAILURES as error:
            if http_status(error) == HTTPStatus.CONFLICT:
                return None
            raise _Away(why(error, RIGHTS)) from error
        logger.info("authority stored", extra={"fields": {"secret": self._where, "signs": authority.id}})
        return made

    async def _copy(self, secret: Secret) -> None:
        """Write the folder if the Secret is another than before. Raises StoreError."""
        version = secret.metadata.resourceVersion if secret.metadata is not None else None
        if version is not None and version == self._version:
            return
        try:
            certificate, key, roots = (_content(secret, name) for name in (CERTIFICATE, KEY, ROOTS))
            authority = Authority.load(certificate, key, roots)
            if not read_certificates(roots):
                raise ValueError(f"{ROOTS} has no certificate")
        except (AuthorityError, ValueError) as error:
            raise StoreError(f"the Secret {self._where} is not an authority: {error}") from None
        if authority.trust_domain != self._trust_domain:
            raise StoreError(
                f"the Secret {self._where} is the authority of trust domain {authority.trust_domain}, not of"
                f" {self._trust_domain}: use another Secret"
            )
        copy = AuthorityCopy(self._where, StoredAuthority.of(authority))
        await asyncio.to_thread(self._store.save_copy, copy)
        self._version = version


class _Away(Exception):
    """The API server does not say, or may not."""


def _content(secret: Secret, name: str) -> bytes:
    """Raises ValueError."""
    text = (secret.data or {}).get(name)
    if not text:
        raise ValueError(f"it has no {name}")
    return base64.b64decode(text)
