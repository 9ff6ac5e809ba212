"""Token issuers of the sidecar: a verifier for each snapshot, and key sets that are kept across snapshots."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from meshproxy.config.codes import Code
from meshproxy.config.fields import claims_of
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.identity.jws import canonical_name, verifier
from meshproxy.identity.keys import REFRESH, IssuerKeys
from meshproxy.identity.load_balancer import ALGORITHM, keys_url
from meshproxy.identity.tokens import Issuer, KeysWanted, TokenVerifier
from meshproxy.sidecar.caller_identities import CallerIdentities
from meshproxy.sidecar.http_get import Access, FetchError
from meshproxy.sidecar.key_refresher import KeyRefresher
from meshproxy.sidecar.key_sources import (
    FILE_REFRESH,
    Source,
    from_discovery,
    from_file,
    from_load_balancer,
    from_url,
)
from meshproxy.telemetry.timestamps import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.config import schema
    from meshproxy.telemetry.metrics import Rows
    from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
    from meshproxy.transport.outbox import Outbox

logger = logging.getLogger(__name__)

FIRST_KEYS_SECONDS = 1.0
"""How long start-up waits for the keys of issuers. Then the sidecar serves; requests with tokens wait for the fetch in
progress."""
OTHER_KEYS_SECONDS = 0.25
"""How long start-up waits for the other issuers once one has answered: those that work are fetched together, and one
that hangs must not delay them."""


class IssuerState(msgspec.Struct):
    """The keys of one configured issuer, and the task that refreshes them."""

    keys: IssuerKeys
    refresher: KeyRefresher | None
    """None: the keys are inline in the document."""
    task: asyncio.Task[None] | None = None
    said: tuple[str, ...] = ()
    """What the log says of keys that are not used."""


class Tokens:
    """The issuers in use, by the source of their keys. A reload that changes anything else about an issuer keeps its
    keys: the issuer may be unavailable at that moment."""

    def __init__(self, metrics: SidecarMetrics, outbox: Outbox) -> None:
        self._metrics = metrics
        self._outbox = outbox
        self._known: dict[bytes, IssuerState] = {}
        self._built: dict[bytes, IssuerState] = {}
        self._callers: CallerIdentities | None = None
        self._callers_built: CallerIdentities | None = None
        self._waiting: set[asyncio.Task[None]] = set()
        metrics.jwks_age.read_from(self._ages)

    def build(
        self, issuers: Sequence[schema.Issuer], callers: schema.CallerIdentity | None = None
    ) -> TokenVerifier | None:
        """A verifier for tokens of `issuers`, and for pre-signed requests where `callers` says so; None if there are
        neither. Without issuers `cryptography` is not imported.

        Raises:
            ConfigError: inline keys, or the URL of keys, cannot be used.
        """
        for algorithm in {canonical_name(name) for issuer in issuers for name in algorithms_of(issuer)}:
            verifier(algorithm)  # now, because the first keys may come in the middle of traffic
        self._built = {}
        self._callers_built = None
        if callers is not None:
            is_same = self._callers is not None and self._callers.settings == callers
            self._callers_built = self._callers if is_same else CallerIdentities(callers, self._count_callers)
        trusted = []
        for issuer in issuers:
            key = _key(issuer)
            known = self._built[key] = self._known.get(key) or self._make(issuer)
            trusted.append(issuer_of(issuer, known.keys))
        if not trusted and self._callers_built is None:
            return None
        presigned = self._callers_built.known if self._callers_built is not None else None
        return TokenVerifier(trusted, self._metrics.cache_misses, presigned)

    def adopt(self) -> None:
        """The last `build` is in use: start refreshing new issuers, stop refreshing removed ones."""
        for key, known in self._known.items():
            if key not in self._built and known.task is not None:
                known.task.cancel()
        self._known = self._built
        self._callers = self._callers_built
        for known in self._known.values():
            _say_unused(known)  # of those in the document, which nobody fetches
            if known.refresher is not None and known.task is None:
                known.task = asyncio.get_running_loop().create_task(known.refresher.run())

    async def wait_for_keys(self) -> None:
        """Return when the first fetch for every issuer has ended, `OTHER_KEYS_SECONDS` after one has succeeded, or
        after `FIRST_KEYS_SECONDS`."""
        loop = asyncio.get_running_loop()
        waiting = {
            loop.create_task(known.refresher.refresh())
            for known in self._known.values()
            if known.refresher is not None and not known.keys.has_keys
        }
        until = loop.time() + FIRST_KEYS_SECONDS
        while waiting and loop.time() < until:
            if self.are_known:
                until = min(until, loop.time() + OTHER_KEYS_SECONDS)
            _, waiting = await asyncio.wait(waiting, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:  # the fetches themselves go on
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    @property
    def are_known(self) -> bool:
        """The keys of one issuer at least are known. Readiness depends on it: one issuer that is unavailable must not
        take the callers of the others away, and its own tokens would be refused by every other sidecar, too."""
        return not self._known or any(known.keys.has_keys for known in self._known.values())

    def refresh(self, wanted: KeysWanted, then: Callable[[], None]) -> None:
        """Fetch the keys of the issuer that is wanted, or ask AWS STS, then call `then`, also on failure
        (`ports.RefreshKeys`)."""
        task = asyncio.get_running_loop().create_task(self._refresh(wanted, then))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _refresh(self, wanted: KeysWanted, then: Callable[[], None]) -> None:
        if wanted.identity is not None and self._callers is not None:
            await self._callers.ask(wanted.identity)
        for known in self._known.values():
            if known.keys.issuer == wanted.issuer and known.refresher is not None:
                await known.refresher.refresh()
        self._outbox.begin()
        try:
            then()
        finally:
            self._outbox.flush()

    async def close(self) -> None:
        tasks = [known.task for known in self._known.values() if known.task is not None] + list(self._waiting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._callers is not None:
            await self._callers.close()

    def _make(self, issuer: schema.Issuer) -> IssuerState:
        is_fixed = issuer.keys is not None and issuer.keys.inline is not None
        is_file = issuer.keys is not None and issuer.keys.file is not None
        refresh = None if is_fixed else FILE_REFRESH if is_file else REFRESH
        is_balanced = bool(issuer.load_balancers)
        keys = IssuerKeys(issuer.name, algorithms_of(issuer), refresh=refresh, are_single=is_balanced)
        refresher = None
        try:
            if is_fixed:
                keys.take(msgspec.json.encode(issuer.keys.inline), time.time(), 0.0)  # type: ignore[union-attr]
                if keys.problem is not None:
                    raise FetchError(keys.problem)
            else:
                refresher = KeyRefresher(keys, _source(issuer, keys), report=self._report)
        except FetchError as error:
            field, message = f"issuer {issuer.name}", f"its keys: {error}"
            raise ConfigError((Problem("", 0, "MeshConfig", field, message, Code.UNUSABLE_KEYS),)) from None
        return IssuerState(keys, refresher)

    def _count_callers(self, result: str) -> None:
        self._metrics.caller_identity.labels(result).value += 1
        if result == "failed":
            logger.warning("AWS STS did not say who signed a request; its callers are asked to try again")

    def _report(self, keys: IssuerKeys) -> None:
        result = "ok" if keys.problem is None else "failed"
        self._metrics.jwks_refresh.labels(keys.issuer, result).value += 1
        for known in self._known.values():
            _say_unused(known)
        if keys.problem is not None:
            logger.warning(
                "key set of a token issuer could not be fetched; keys fetched before stay in use",
                extra={
                    "fields": {
                        "issuer": keys.issuer,
                        "problem": keys.problem,
                        "failures": keys.failures,
                        "has_keys": keys.has_keys,
                    }
                },
            )

    def overview(self) -> list[dict[str, object]]:
        """Each issuer with the state of its keys."""
        return [
            {
                "name": known.keys.issuer,
                "keys": len(known.keys.keys.keys) if known.keys.keys is not None else 0,
                "unused": _unused(known.keys),
                "fetchedAt": timestamp(known.keys.fetched_at),
                "failures": known.keys.failures,
                "problem": known.keys.problem,
            }
            for known in self._known.values()
        ]

    def _ages(self) -> Rows:
        now = time.time()
        return [
            ((known.keys.issuer,), now - known.keys.fetched_at)
            for known in self._known.values()
            if known.keys.fetched_at is not None
        ]


def _unused(keys: IssuerKeys) -> tuple[str, ...]:
    """Why keys that the issuer publishes are not used, one line each."""
    return keys.keys.problems if keys.keys is not None else ()


def _say_unused(known: IssuerState) -> None:
    """Once, and again when it has changed. No warning: issuers publish keys for encryption, and of many algorithms."""
    unused = _unused(known.keys)
    if unused not in (known.said, ()):
        logger.info(
            "keys of a token issuer are not used; tokens that name them are refused",
            extra={"fields": {"issuer": known.keys.issuer, "keys": list(unused)}},
        )
    known.said = unused


def issuer_of(issuer: schema.Issuer, keys: IssuerKeys) -> Issuer:
    """An issuer of a document, ready to verify with these keys."""
    return Issuer(
        name=issuer.name,
        url=issuer.issuer,
        audiences=frozenset(issuer.audiences),
        keys=keys,
        leeway=issuer.leeway,
        max_lifetime=issuer.max_lifetime,
        required_claims=claims_of(issuer.required_claims, issuer.required_claim_paths),
        subject_fallback=issuer.subject_fallback or issuer.subject_fallback_path,
        place=issuer.token_from.name if issuer.token_from is not None else None,
        load_balancers=frozenset(issuer.load_balancers),
    )


def algorithms_of(issuer: schema.Issuer) -> frozenset[str]:
    """What tokens of an issuer of a document may be signed with."""
    return frozenset({ALGORITHM} if issuer.load_balancers else issuer.algorithms)


def _key(issuer: schema.Issuer) -> bytes:
    """What decides whether keys can be kept. Packed: an inline key set is a mapping, which has no hash."""
    discovered = _url_of(issuer) if issuer.keys is None else None
    access = (issuer.ca_file, issuer.bearer_token_file, issuer.inside_cluster)
    are_single = bool(issuer.load_balancers)
    return msgspec.msgpack.encode((issuer.name, issuer.algorithms, issuer.keys, access, discovered, are_single))


def _url_of(issuer: schema.Issuer) -> str:
    """Where an issuer has its keys, if the document does not say so."""
    return keys_url(issuer.load_balancers[0]) if issuer.load_balancers else issuer.issuer


def _source(issuer: schema.Issuer, keys: IssuerKeys) -> Source:
    access = Access(
        ca_file=Path(issuer.ca_file) if issuer.ca_file is not None else None,
        token_file=Path(issuer.bearer_token_file) if issuer.bearer_token_file is not None else None,
        is_inside_cluster=issuer.inside_cluster,
    )
    if issuer.load_balancers:
        url = issuer.keys.url if issuer.keys is not None else None
        return from_load_balancer(url or _url_of(issuer), keys, access)
    if issuer.keys is None:
        return from_discovery(_url_of(issuer), access)
    if issuer.keys.url is not None:
        return from_url(issuer.keys.url, access)
    assert issuer.keys.file is not None
    return from_file(Path(issuer.keys.file))
