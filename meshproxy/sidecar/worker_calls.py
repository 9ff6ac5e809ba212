"""The calls of several workers together: each tells its own at `/calls` on its admin port, and the first one, which
reads the model server's page, asks the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from meshproxy.sidecar.http_get import Access, FetchError, Url, fetch
from meshproxy.sidecar.server_page import NoPage
from meshproxy.telemetry.hop_lag import MOST_MODELS, MOST_NAME, CallTime
from meshproxy.transport.client import ClientError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.telemetry.hop_lag import CallTimes

ANSWER_BYTES = MOST_MODELS * (12 * MOST_NAME + 400)
"""A character of a name takes at most two escapes of JSON, six bytes each."""


class Told(msgspec.Struct, frozen=True):
    """What one worker tells."""

    since: str
    """Tells its process from the one before it, which counted for itself."""
    models: dict[str, tuple[int, float, float, float, float]]
    """The numbers of `CallTime` in its order."""


def tell(calls: CallTimes, since: str) -> dict[str, object]:
    """The page `/calls`."""
    models = {
        name: (each.calls, each.upstream, each.proxy, each.client, each.whole) for name, each in calls.read().items()
    }
    told: dict[str, object] = msgspec.to_builtins(Told(since, models))
    return told


class WorkerCalls:
    """The sums of all workers.

    Args:
        own: of this one.
        others: `HOST:PORT` of the admin ports of the others.
    """

    def __init__(self, own: CallTimes, others: Sequence[str]) -> None:
        self._own = own
        self._others = others

    async def read(self) -> tuple[tuple[str, ...], dict[str, CallTime]]:
        """Which processes have counted, and the sum of their calls. Raises NoPage: one of them does not tell."""
        told = await asyncio.gather(*map(_ask, self._others))
        total = self._own.read()
        for each in told:
            for name, numbers in each.models.items():
                total[name] = total.get(name, CallTime()) + CallTime(*numbers)
        return tuple(each.since for each in told), total


async def _ask(address: str) -> Told:
    try:
        body = await fetch(Url.read(f"http://{address}/calls"), ANSWER_BYTES, Access())
        return msgspec.json.decode(body, type=Told)
    except (FetchError, ClientError, msgspec.MsgspecError) as error:
        raise NoPage("failed", f"the worker at {address} does not tell its calls: {error}") from error
