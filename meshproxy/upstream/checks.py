"""Active health checks of one endpoint, at an interval; `health` judges the results.

A response that reports a failure counts against a model. No response counts against the endpoint, unless other requests
of the same round had one. A request for which there was no free connection counts as nothing. A round for one model
costs 90 us of CPU over REST and 190 over gRPC.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from meshproxy.codec.headers import ORIGIN_FORM
from meshproxy.inference import grpc_health
from meshproxy.inference.grpc_health import Serving
from meshproxy.inference.surface import ModelVersions
from meshproxy.inference.surfaces import SURFACES
from meshproxy.refusal import GrpcStatus, Refusal
from meshproxy.transport.connect_failures import ConnectError
from meshproxy.transport.connector import connect_h1
from meshproxy.upstream.probe import ProbeFailed, Skipped, Unanswered, call, get

if TYPE_CHECKING:
    from meshproxy.config import servers
    from meshproxy.inference.surface import StatusProbe
    from meshproxy.transport.client import StreamSource
    from meshproxy.transport.connection import ConnectionContext
    from meshproxy.transport.h1_client import H1Client
    from meshproxy.upstream.health import Health

logger = logging.getLogger(__name__)

JITTER = 0.1
"""Relative: an interval is longer or shorter by up to this, as many sidecars check the same endpoint."""
FIRST_WITHIN = 1.0
"""Seconds within which the first check begins."""
DENIED_FOR = 600.0
"""Seconds after a denial until a sidecar is asked for its model server again. Each is in its audit trail, and among the
denials that people look at: one a second from each caller would hide all others."""
AT_ONCE = 8
"""Concurrent requests to one endpoint."""

Ask = Callable[[str], Awaitable["ModelVersions | None"]]
"""Checks one model; None: it is served, and nothing else is known. Raises ProbeFailed, Refusal (the response cannot be
read), Unanswered or Skipped."""


class CheckResult(msgspec.Struct, frozen=True):
    """The result of a check for one model or the endpoint."""

    model: str | None
    """None: the endpoint itself."""
    problem: str | None
    """Why the check failed; None: it passed."""
    is_loading: bool = False
    """The server is loading a version of the model, which takes from the time that it has for calls."""


class Checker:
    """The checks of one endpoint."""

    def __init__(
        self,
        shared: ConnectionContext,
        settings: servers.Health,
        health: Health,
        rest: StreamSource | None,
        grpc: StreamSource | None,
        on_results: Callable[[tuple[CheckResult, ...], bool], None],
        *,
        draw: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Nothing is checked before `start`.

        Args:
            shared: what connections share.
            settings: what to check, and how often; the models are those of `health`.
            health: judges the results.
            rest: connections for REST; the same as `grpc` where the endpoint is a sidecar.
            grpc: connections for gRPC.
            on_results: called after every round with its results, and whether they changed what the endpoint may serve.
            draw: a random number from 0 to 1.
            sleep: waits between two rounds.
        """
        self._shared = shared
        self._settings = settings
        self._health = health
        self._rest = rest
        self._grpc = grpc
        self._on_results = on_results
        self._draw = draw
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None
        self._is_denied_until = 0.0
        """Until then a sidecar is asked for itself alone."""
        self._is_unchecked = False
        """Logged once: the endpoint does not implement health checks."""
        self.available: dict[str, tuple[str, ...]] = {}
        """AVAILABLE versions of each model, ascending, as of the last `model-status` check."""

    def start(self) -> None:
        """Check until `close`."""
        self._task = self._shared.loop.create_task(self._run())

    async def close(self) -> None:
        """Stop, and cancel a check in progress."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        interval = self._settings.interval
        await self._sleep(min(interval, FIRST_WITHIN) * self._draw())
        while True:
            try:
                results = await self.check()
            except Exception as mistake:
                # Any error: if this task ended with it, the last result would stay in effect.
                logger.exception("internal error in a health check")
                results = (CheckResult(None, f"the check failed: {mistake!r}"),)
            now = self._shared.loop.time()
            has_changed = False
            for result in results:
                has_changed |= self._health.record(result.model, result.problem is None, now)
            try:
                self._on_results(results, has_changed)
            except Exception:
                logger.exception("internal error in reporting a health check")
            await self._sleep(interval * (1 + JITTER * (2 * self._draw() - 1)))

    async def check(self) -> tuple[CheckResult, ...]:
        """One round. Empty: it says nothing."""
        check = self._settings.check
        models = self._health.settings.models
        if check == "answer":
            return await self._whole(self._answers)
        if check == "http":
            return await self._whole(self._get_path)
        if check == "grpc":
            return await (self._each(models, self._serves) if models else self._whole(lambda: self._serves("")))
        probe = SURFACES.probe(check)
        if probe is not None and models:
            has_rest = self._rest is not None and self._rest is not self._grpc
            return await self._each(models, partial(self._ask_rest if has_rest else self._ask_grpc, probe))
        return await self._whole(self._connect)

    # Rounds

    async def _whole(self, ask: Callable[[], Awaitable[None]]) -> tuple[CheckResult, ...]:
        try:
            await ask()
        except Skipped:
            return ()
        except (Unanswered, ProbeFailed, Refusal, ConnectError) as error:
            return (CheckResult(None, str(error)),)
        return (CheckResult(None, None),)

    async def _each(self, models: tuple[str, ...], ask: Ask) -> tuple[CheckResult, ...]:
        results = []
        unanswered: list[CheckResult] = []
        for i in range(0, len(models), AT_ONCE):
            several = models[i : i + AT_ONCE]
            outcomes = await asyncio.gather(*(ask(model) for model in several), return_exceptions=True)
            for model, outcome in zip(several, outcomes, strict=True):
                if isinstance(outcome, Unanswered):
                    unanswered.append(CheckResult(model, str(outcome)))
                elif isinstance(outcome, ProbeFailed | Refusal):
                    results.append(CheckResult(model, str(outcome)))
                elif outcome is None:
                    results.append(CheckResult(model, None))
                elif isinstance(outcome, ModelVersions):
                    problem = None if outcome.available else "no version is AVAILABLE"
                    results.append(CheckResult(model, problem, outcome.is_loading))
                elif not isinstance(outcome, Skipped):
                    raise outcome
        if results:
            return (CheckResult(None, None), *results, *unanswered)
        return (CheckResult(None, unanswered[0].problem),) if unanswered else ()

    # Checks

    async def _connect(self) -> None:
        """Every address accepts connections."""
        for address in dict.fromkeys(pool.address for pool in (self._rest, self._grpc) if pool is not None):
            connection = await connect_h1(self._shared, address, _NO_OWNER, self._settings.timeout)
            connection.close()

    async def _answers(self) -> None:
        """There is an answer, whatever it says."""
        is_sidecar = self._rest is not None and self._rest is self._grpc
        if self._rest is not None and not is_sidecar:
            await get(self._rest, b"/", self._settings.timeout)
            return
        source, now = _required(self._grpc, "gRPC"), self._shared.loop.time()
        if is_sidecar and now < self._is_denied_until:
            await get(source, grpc_health.ALIVE, self._settings.timeout)
            return
        try:
            await call(source, grpc_health.CHECK, grpc_health.write_request(""), self._settings.timeout)
        except ProbeFailed as failed:
            if failed.status in (GrpcStatus.PERMISSION_DENIED, GrpcStatus.UNAUTHENTICATED):
                self._is_denied_until = now + DENIED_FOR

    async def _get_path(self) -> None:
        target = self._settings.path.encode()
        if not re.fullmatch(ORIGIN_FORM, target):
            raise ProbeFailed(f"{self._settings.path!r} is not a path")
        answer = await get(_required(self._rest, "REST"), target, self._settings.timeout)
        if not 200 <= answer.status < 300:
            raise ProbeFailed(f"HTTP status {answer.status}")

    async def _serves(self, service: str) -> None:
        body = grpc_health.write_request(service)
        try:
            answer = await call(_required(self._grpc, "gRPC"), grpc_health.CHECK, body, self._settings.timeout)
        except ProbeFailed as failed:
            if failed.status == GrpcStatus.UNIMPLEMENTED:
                # It responds, and cannot say more (gRFC A17): no reason to take it out.
                if not self._is_unchecked:
                    self._is_unchecked = True
                    logger.warning(
                        "endpoint does not implement grpc.health.v1; it counts as healthy while it responds",
                        extra={"fields": {"endpoint": _required(self._grpc, "gRPC").address}},
                    )
                return
            raise
        status = grpc_health.read_response(answer)
        if status is not Serving.SERVING:
            raise ProbeFailed(status.name)

    async def _ask_rest(self, probe: StatusProbe, model: str) -> ModelVersions:
        target = probe.rest_target(model)
        answer = await get(_required(self._rest, "REST"), target, self._settings.timeout)
        if answer.status != 200:
            self.available[model] = ()
            raise ProbeFailed(f"HTTP status {answer.status}")
        return self._note(model, probe.read_rest(answer.body))

    async def _ask_grpc(self, probe: StatusProbe, model: str) -> ModelVersions:
        body = probe.write_grpc(model)
        try:
            answer = await call(_required(self._grpc, "gRPC"), probe.grpc_method, body, self._settings.timeout)
        except ProbeFailed:
            self.available[model] = ()
            raise
        return self._note(model, probe.read_grpc(answer))

    def _note(self, model: str, versions: ModelVersions) -> ModelVersions:
        self.available[model] = versions.available
        return versions


def _required(source: StreamSource | None, surface: str) -> StreamSource:
    if source is None:
        raise ProbeFailed(f"the endpoint has no {surface} address")
    return source


class _NoOwner:
    """Owner of connections that are closed as soon as they are open."""

    def released(self, connection: H1Client) -> None:
        """Not reached: nothing is sent."""

    def closed(self, connection: H1Client) -> None:
        """Expected."""


_NO_OWNER = _NoOwner()
