"""Calls of a model that the development model server has: `half_plus_two`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meshproxy.devtools.clients import Answer, GrpcClient, RestClient
from meshproxy.devtools.models import predict_request
from tests.processes.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.devtools.clients import Certificate

PREDICT = "/tensorflow.serving.PredictionService/Predict"
REQUEST = predict_request("half_plus_two", [1.0]).SerializeToString()
PATH = "/v1/models/half_plus_two:predict"
KEPT = 5
"""Failures that are told."""


class Load:
    """Calls over REST and gRPC until it is stopped, one after the other on each of several connections.

    Args:
        address: HOST:PORT.
        certificate: of the caller; None: in plain text.
        rest: whether each of the callers over REST keeps its connection, or makes a new one for each call.
        grpc: the same over gRPC.
        pause: seconds between two calls of each of them.
    """

    def __init__(
        self,
        address: str,
        certificate: Certificate | None,
        rest: Sequence[bool],
        grpc: Sequence[bool],
        pause: float = 0.0,
    ) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._address = address
        self._certificate = certificate
        self._pause = pause
        self._stopping = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._rest(is_kept=is_kept)) for is_kept in rest]
        self._tasks += [asyncio.ensure_future(self._grpc(is_kept=is_kept)) for is_kept in grpc]

    async def _rest(self, *, is_kept: bool) -> None:
        while not self._stopping.is_set():
            async with RestClient(self._address, self._certificate) as client:
                while not self._stopping.is_set():
                    answer = await client.call("POST", PATH, {"instances": [2.0]})
                    self._count(answer, "200")
                    await asyncio.sleep(self._pause)
                    if not is_kept:
                        break

    async def _grpc(self, *, is_kept: bool) -> None:
        request = predict_request("half_plus_two", [2.0]).SerializeToString()
        while not self._stopping.is_set():
            async with GrpcClient(self._address, self._certificate) as client:
                while not self._stopping.is_set():
                    self._count(await client.call(PREDICT, request), "OK")
                    await asyncio.sleep(self._pause)
                    if not is_kept:
                        break

    def _count(self, answer: Answer, expected: str) -> None:
        if answer.status == expected:
            self.answered += 1
        else:
            by = f"refused by meshproxy as {answer.refusal}" if answer.refusal else "not refused by meshproxy"
            self.failures.append(f"{answer.status}, {by}, after {answer.seconds:.3f} s: {answer.body!r}")

    async def more(self, count: int) -> None:
        """So many calls are answered from now on."""
        goal = self.answered + count
        await until(lambda: self.answered >= goal or self.failures or any(task.done() for task in self._tasks))

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)
        assert not self.failures, self.failures[:KEPT]
