"""Asks AWS STS who signed pre-signed requests: what may be sent is `identity/callers.py`'s decision."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy.identity.callers import KnownCallers, Settings
from meshproxy.identity.presigned import ANSWER_BYTES, AUDIENCE_HEADER
from meshproxy.sidecar.http_get import Access, FetchError, Url, fetch
from meshproxy.transport.client import ClientError, StatusError

if TYPE_CHECKING:
    from meshproxy.config.issuers import CallerIdentity
    from meshproxy.identity.callers import IdentityWanted
    from meshproxy.identity.presigned import Presigned

_JSON = b"application/json"
"""And nothing beside it: STS answers in XML otherwise."""
_REFUSED = frozenset({400, 401, 403})
"""STS judged the request. Any other status says nothing about it: STS is throttling, or unwell."""


class CallerIdentities:
    """Pre-signed requests and what STS says of them. Lives as long as the settings stay the same."""

    def __init__(
        self,
        settings: CallerIdentity,
        report: Callable[[str], None] = lambda result: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            settings: of the MeshConfig.
            report: called after each request to STS with what became of it: `known`, `refused` or `failed`.
            clock: seconds since the epoch.
        """
        self.settings = settings
        self.known = KnownCallers(Settings(frozenset(settings.endpoints), settings.port, settings.audience))
        self._access = Access(ca_file=Path(settings.ca_file) if settings.ca_file is not None else None)
        self._report = report
        self._clock = clock
        self._asked: dict[bytes, asyncio.Task[None]] = {}

    async def ask(self, wanted: IdentityWanted) -> None:
        """Return when STS has answered, or has not. Joins a request that is on its way. One that was read with other
        settings is not sent: a reload has replaced them."""
        if not self.known.is_ours(wanted.request):
            return
        task = self._asked.get(wanted.digest)
        if task is None:
            self.known.begin(wanted)
            task = self._asked[wanted.digest] = asyncio.create_task(self._ask(wanted.digest, wanted.request))
        # Not awaited itself: a client that goes away must not cancel the request for the others.
        await asyncio.wait((task,))

    async def close(self) -> None:
        """Give up what is on its way."""
        tasks = list(self._asked.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, digest: bytes, request: Presigned) -> None:
        url = Url(True, request.host, request.port, request.target)
        more = ((AUDIENCE_HEADER, request.audience.encode()),)
        try:
            content: bytes | None = await fetch(url, ANSWER_BYTES, self._access, _JSON, more)
        except StatusError as error:
            content = None
            is_answered = error.http_status in _REFUSED
        except (ClientError, FetchError, OSError):
            is_answered = False
        except asyncio.CancelledError:
            self.known.fail(digest, self._clock())
            raise
        else:
            is_answered = True
        finally:
            del self._asked[digest]
        if is_answered:
            self.known.take(digest, content, self._clock())
            self._report("refused" if content is None else "known")
        else:
            self.known.fail(digest, self._clock())
            self._report("failed")
