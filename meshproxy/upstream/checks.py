"""Asks one endpoint how it is, again and again, and has `health` judge the answers.

A question that is answered with no says something about a model; one that is not answered at all says it about the
endpoint, unless others were answered beside it. A question that we had no connection for says nothing. A round of one
model costs 90 us of CPU over REST and 190 over gRPC.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.codec.headers import ORIGIN_FORM
from meshproxy.inference import grpc_health, model_status
from meshproxy.inference.grpc_health import Serving
from meshproxy.refusal import GrpcStatus, Refusal
from meshproxy.transport.connector import ConnectError, connect_h1
from meshproxy.upstream.probe import Declined, Lender, NotAsked, Unanswered, call, get

if TYPE_CHECKING:
    from meshproxy.config import servers
    from meshproxy.transport.connection import Driving
    from meshproxy.transport.h1 import H1Client
    from meshproxy.upstream.health import Health

logger = logging.getLogger(__name__)

JITTER = 0.1
"""Intervals are longer or shorter by up to so much: many sidecars ask the same endpoint."""
FIRST_WITHIN = 1.0
"""Seconds within which the first check begins."""
AT_ONCE = 8
"""Questions to one endpoint at a time."""

Ask = Callable[[str], Awaitable[None]]
"""Asks about one model. Raises Declined, Refusal (the answer cannot be read), Unanswered or NotAsked."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check says."""

    model: str | None
    """None: of the endpoint itself."""
    problem: str | None
    """Why it is bad; None: it is good."""


class Checker:
    """The checks of one endpoint."""

    def __init__(
        self,
        driving: Driving,
        settings: servers.Health,
        health: Health,
        rest: Lender | None,
        grpc: Lender | None,
        tell: Callable[[tuple[Verdict, ...], bool], None],
        *,
        draw: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Nothing is asked yet.

        Args:
            driving: what connections share.
            settings: what is asked, and how often; of `models` those of `health` count.
            health: judges.
            rest: connections for REST; the same as `grpc` where the endpoint is a sidecar.
            grpc: connections for gRPC.
            tell: told after every round what it said, and whether the endpoint takes other calls than before.
            draw: chance, from 0 to 1.
            sleep: waits between two rounds.
        """
        self._driving = driving
        self._settings = settings
        self._health = health
        self._rest = rest
        self._grpc = grpc
        self._tell = tell
        self._draw = draw
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None
        self._is_unchecked = False
        """Said once that the endpoint knows nothing of health checks."""
        self.available: dict[str, tuple[str, ...]] = {}
        """Versions of each model that can be called there, in ascending order, as `model-status` heard last."""

    def start(self) -> None:
        """Check until `close`."""
        self._task = self._driving.loop.create_task(self._run())

    async def close(self) -> None:
        """Stop; a question under way is given up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        interval = self._settings.interval
        await self._sleep(min(interval, FIRST_WITHIN) * self._draw())
        while True:
            try:
                verdicts = await self.check()
            except Exception as mistake:
                # Whatever it is: if this task died of it, the last verdict would stand for ever.
                logger.exception("an endpoint cannot be checked")
                verdicts = (Verdict(None, f"the check failed: {mistake!r}"),)
            now = self._driving.loop.time()
            has_changed = False
            for verdict in verdicts:
                has_changed |= self._health.record(verdict.model, verdict.problem is None, now)
            try:
                self._tell(verdicts, has_changed)
            except Exception:
                logger.exception("the result of a check could not be told")
            await self._sleep(interval * (1 + JITTER * (2 * self._draw() - 1)))

    async def check(self) -> tuple[Verdict, ...]:
        """One round. Empty: nothing was learned."""
        check = self._settings.check
        models = self._health.checked.models
        if check == "http":
            return await self._whole(self._get_path)
        if check == "grpc":
            return await (self._each(models, self._serves) if models else self._whole(lambda: self._serves("")))
        if check == "model-status" and models:
            has_rest = self._rest is not None and self._rest is not self._grpc
            return await self._each(models, self._has_version_by_rest if has_rest else self._has_version_by_grpc)
        return await self._whole(self._connect)

    # Rounds

    async def _whole(self, ask: Callable[[], Awaitable[None]]) -> tuple[Verdict, ...]:
        """One question, about the endpoint."""
        try:
            await ask()
        except NotAsked:
            return ()
        except (Unanswered, Declined, Refusal, ConnectError) as error:
            return (Verdict(None, str(error)),)
        return (Verdict(None, None),)

    async def _each(self, models: tuple[str, ...], ask: Ask) -> tuple[Verdict, ...]:
        """One question about each model."""
        verdicts = []
        unanswered: list[Verdict] = []
        for i in range(0, len(models), AT_ONCE):
            several = models[i : i + AT_ONCE]
            results = await asyncio.gather(*(ask(model) for model in several), return_exceptions=True)
            for model, result in zip(several, results, strict=True):
                if isinstance(result, Unanswered):
                    unanswered.append(Verdict(model, str(result)))
                elif isinstance(result, Declined | Refusal):
                    verdicts.append(Verdict(model, str(result)))
                elif result is None:
                    verdicts.append(Verdict(model, None))
                elif not isinstance(result, NotAsked):
                    raise result
        if verdicts:
            return (Verdict(None, None), *verdicts, *unanswered)
        return (Verdict(None, unanswered[0].problem),) if unanswered else ()

    # Questions

    async def _connect(self) -> None:
        """Every address takes connections."""
        for address in dict.fromkeys(pool.address for pool in (self._rest, self._grpc) if pool is not None):
            connection = await connect_h1(self._driving, address, _NOBODY, self._settings.timeout)
            connection.close()

    async def _get_path(self) -> None:
        target = self._settings.path.encode()
        if not re.fullmatch(ORIGIN_FORM, target):
            raise Declined(f"{self._settings.path!r} is no path")
        answer = await get(_there(self._rest, "REST"), target, self._settings.timeout)
        if not 200 <= answer.status < 300:
            raise Declined(f"HTTP status {answer.status}")

    async def _serves(self, service: str) -> None:
        body = grpc_health.write_request(service)
        try:
            answer = await call(_there(self._grpc, "gRPC"), grpc_health.CHECK, body, self._settings.timeout)
        except Declined as declined:
            if declined.status == GrpcStatus.UNIMPLEMENTED:
                # It answers, and nobody there knows more (gRFC A17): no reason to call nobody at all.
                if not self._is_unchecked:
                    self._is_unchecked = True
                    logger.warning(
                        "an endpoint does not implement grpc.health.v1: it is taken to be well while it answers",
                        extra={"fields": {"endpoint": _there(self._grpc, "gRPC").address}},
                    )
                return
            raise
        status = grpc_health.read_response(answer)
        if status is not Serving.SERVING:
            raise Declined(status.name)

    async def _has_version_by_rest(self, model: str) -> None:
        target = model_status.rest_target(model)
        answer = await get(_there(self._rest, "REST"), target, self._settings.timeout)
        if answer.status != 200:
            self.available[model] = ()
            raise Declined(f"HTTP status {answer.status}")
        self._note(model, model_status.read_json(answer.body))

    async def _has_version_by_grpc(self, model: str) -> None:
        body = model_status.write_request(model)
        try:
            answer = await call(_there(self._grpc, "gRPC"), model_status.METHOD, body, self._settings.timeout)
        except Declined:
            self.available[model] = ()
            raise
        self._note(model, model_status.read_response(answer))

    def _note(self, model: str, versions: tuple[str, ...]) -> None:
        self.available[model] = versions
        if not versions:
            raise Declined("no version is AVAILABLE")


def _there(lender: Lender | None, surface: str) -> Lender:
    if lender is None:
        raise Declined(f"it has no {surface} address")
    return lender


class _Nobody:
    """Owns connections that are closed as soon as they stand."""

    def released(self, connection: H1Client) -> None:
        """Nothing is sent on them."""

    def closed(self, connection: H1Client) -> None:
        """As was meant."""


_NOBODY = _Nobody()
