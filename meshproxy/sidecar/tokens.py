"""Issuers of tokens in the sidecar: verifiers for snapshots, and key sets that live on across them."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from meshproxy.config.problems import ConfigError, Problem
from meshproxy.identity.jwk import load_algorithms
from meshproxy.identity.keys import REFRESH, IssuerKeys
from meshproxy.identity.tokens import Issuer, TokenVerifier
from meshproxy.sidecar.fetch import FILE_REFRESH, FetchError, KeyRefresher, Source, from_discovery, from_file, from_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.config import schema
    from meshproxy.telemetry.metrics import Rows
    from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
    from meshproxy.transport.outbox import Outbox

logger = logging.getLogger(__name__)

FIRST_KEYS_SECONDS = 5.0
"""How long start-up waits for issuers: requests with tokens cannot be answered before. Then it serves those without."""


@dataclass(slots=True)
class Known:
    """The keys of one issuer that is configured, and what fetches them."""

    keys: IssuerKeys
    refresher: KeyRefresher | None
    """None: the keys stand in the document."""
    task: asyncio.Task[None] | None = None


class Tokens:
    """Every issuer in use, by where its keys are: as long as that stays the same, so do they, whatever else a reload
    says of the issuer, which may be away just then."""

    def __init__(self, metrics: SidecarMetrics, outbox: Outbox) -> None:
        self._metrics = metrics
        self._outbox = outbox
        self._known: dict[bytes, Known] = {}
        self._built: dict[bytes, Known] = {}
        self._waiting: set[asyncio.Task[None]] = set()
        metrics.jwks_age.read_from(self._ages)

    def build(self, issuers: Sequence[schema.Issuer]) -> TokenVerifier | None:
        """A verifier of tokens of `issuers`; None if there are none, which spares the libraries for it.

        Raises:
            ConfigError: keys in the document, or where they are said to be, cannot be used.
        """
        if issuers:
            load_algorithms()  # now rather than when the first keys come: that may be in the middle of traffic
        self._built = {}
        believed = []
        for issuer in issuers:
            key = _key(issuer)
            known = self._built[key] = self._known.get(key) or self._make(issuer)
            believed.append(
                Issuer(
                    name=issuer.name,
                    url=issuer.issuer,
                    audiences=frozenset(issuer.audiences),
                    keys=known.keys,
                    leeway=issuer.leeway,
                    max_lifetime=issuer.max_lifetime,
                )
            )
        return TokenVerifier(believed) if believed else None

    def adopt(self) -> None:
        """What was built last is in use: begin to refresh what is new, stop with what is gone."""
        for key, known in self._known.items():
            if key not in self._built and known.task is not None:
                known.task.cancel()
        self._known = self._built
        for known in self._known.values():
            if known.refresher is not None and known.task is None:
                known.task = asyncio.get_running_loop().create_task(known.refresher.run())

    async def wait_for_keys(self) -> None:
        """Return when every issuer's keys are known, or after `FIRST_KEYS_SECONDS`."""
        missing = [known.refresher for known in self._known.values() if known.refresher and not known.keys.has_keys]
        try:
            async with asyncio.timeout(FIRST_KEYS_SECONDS):
                await asyncio.gather(*(refresher.refresh(is_forced=False) for refresher in missing))
        except TimeoutError:
            pass

    @property
    def are_known(self) -> bool:
        """Every issuer's tokens can be verified."""
        return all(known.keys.has_keys for known in self._known.values())

    def refresh(self, issuer: str, then: Callable[[], None]) -> None:
        """Fetch the keys of the issuer of this name, and call `then` when that is over (`pipeline.RefreshKeys`)."""
        task = asyncio.get_running_loop().create_task(self._refresh(issuer, then))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _refresh(self, issuer: str, then: Callable[[], None]) -> None:
        for known in self._known.values():
            if known.keys.issuer == issuer and known.refresher is not None:
                await known.refresher.refresh()
        self._outbox.begin()
        try:
            then()
        finally:
            self._outbox.flush()

    async def close(self) -> None:
        """Stop refreshing."""
        tasks = [known.task for known in self._known.values() if known.task is not None] + list(self._waiting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _make(self, issuer: schema.Issuer) -> Known:
        is_fixed = issuer.keys is not None and issuer.keys.inline is not None
        is_file = issuer.keys is not None and issuer.keys.file is not None
        refresh = None if is_fixed else FILE_REFRESH if is_file else REFRESH
        keys = IssuerKeys(issuer.name, frozenset(issuer.algorithms), refresh=refresh)
        refresher = None
        try:
            if is_fixed:
                keys.take(msgspec.json.encode(issuer.keys.inline), time.time(), 0.0)  # type: ignore[union-attr]
                if keys.problem is not None:
                    raise FetchError(keys.problem)
            else:
                refresher = KeyRefresher(keys, _source(issuer), report=self._report)
        except FetchError as error:
            raise ConfigError((Problem("", 0, "MeshConfig", f"issuer {issuer.name}", f"its keys: {error}"),)) from None
        return Known(keys, refresher)

    def _report(self, keys: IssuerKeys) -> None:
        result = "ok" if keys.problem is None else "failed"
        self._metrics.jwks_refresh.labels(keys.issuer, result).value += 1
        if keys.problem is not None:
            logger.warning(
                "the keys of an issuer could not be fetched",
                extra={
                    "fields": {
                        "issuer": keys.issuer,
                        "problem": keys.problem,
                        "failures": keys.failures,
                        "has_keys": keys.has_keys,
                    }
                },
            )

    def _ages(self) -> Rows:
        now = time.time()
        return [
            ((known.keys.issuer,), now - known.keys.fetched_at)
            for known in self._known.values()
            if known.keys.fetched_at is not None
        ]


def _key(issuer: schema.Issuer) -> bytes:
    """What the keys of an issuer hang on. Packed: a key set that is written out is a mapping, which has no hash."""
    discovered = issuer.issuer if issuer.keys is None else None
    return msgspec.msgpack.encode((issuer.name, issuer.algorithms, issuer.keys, issuer.ca_file, discovered))


def _source(issuer: schema.Issuer) -> Source:
    ca_file = Path(issuer.ca_file) if issuer.ca_file is not None else None
    if issuer.keys is None:
        return from_discovery(issuer.issuer, ca_file)
    if issuer.keys.url is not None:
        return from_url(issuer.keys.url, ca_file)
    assert issuer.keys.file is not None
    return from_file(Path(issuer.keys.file))
