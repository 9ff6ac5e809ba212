"""The task that keeps the keys of one issuer fresh: when to fetch is `identity/keys.py`'s decision."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress

from meshproxy.identity.keys import IssuerKeys
from meshproxy.sidecar.http_get import FetchError
from meshproxy.sidecar.key_sources import Source
from meshproxy.transport.client import ClientError


class KeyRefresher:
    """Keeps the keys of one issuer fresh. One fetch at a time, however many callers want one."""

    def __init__(
        self,
        keys: IssuerKeys,
        source: Source,
        *,
        report: Callable[[IssuerKeys], None] = lambda keys: None,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Nothing is fetched yet.

        Args:
            keys: what to keep fresh.
            source: of the key set.
            report: called after every attempt, for logs and metrics.
            clock: seconds since the epoch.
            jitter: 0 to 1.
        """
        self.keys = keys
        self._source = source
        self._report = report
        self._clock = clock
        self._jitter = jitter
        self._attempt: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        """An attempt has, so the next one may be due at another time: sooner, if it failed and was out of turn."""

    async def run(self) -> None:
        """Refresh whenever it is due, until cancelled."""
        try:
            while True:
                self._ended.clear()
                wait = self.keys.wait(self._clock())
                if wait > 0:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait):
                            await self._ended.wait()
                else:
                    await self.refresh()
        finally:
            if self._attempt is not None:
                self._attempt.cancel()

    async def refresh(self) -> None:
        """Return when one attempt has ended, with or without success. Joins an attempt in progress."""
        self.keys.begin()
        if self._attempt is None:
            self._attempt = asyncio.create_task(self._fetch())
        # Not awaited itself: a client that goes away must not cancel the attempt for the others.
        await asyncio.wait((self._attempt,))

    async def _fetch(self) -> None:
        try:
            document = await self._source()
        except asyncio.CancelledError:
            self.keys.abandon(self._clock())
            raise
        except Exception as error:
            # Any error: if this task ended with it, the keys would become stale unnoticed.
            self.keys.fail(_problem(error), self._clock(), self._jitter())
        else:
            self.keys.take(document, self._clock(), self._jitter())
        finally:
            self._attempt = None
            self._ended.set()
        self._report(self.keys)


def _problem(error: Exception) -> str:
    """One line for the log; errors of the system say little by themselves."""
    if isinstance(error, (FetchError, ClientError)):
        return str(error)
    return f"cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"
