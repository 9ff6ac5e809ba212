"""Versions of a real SavedModel take traffic beside the first one: what is worse goes back by itself, what is good is
promoted, and nobody is asked."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from meshproxy.devtools.child import Child
from meshproxy.devtools.clients import GrpcClient
from meshproxy.devtools.local_mesh import local_mesh
from tests.processes.calls import PREDICT
from tests.processes.rollouts import RolloutMesh
from tests.tensorflow.versions import BROKEN, GOOD, MODEL, NAN, SHIFTED, SLOW

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(900)]

METRICS = ("request-success-rate", "request-duration", "not-a-number", "class-distribution", "score-distribution")


def requests() -> list[bytes]:
    """A thousand inputs."""
    found = []
    for x in numpy.random.default_rng(7).normal(size=(1_000, 1, 4)).astype("float32"):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = MODEL
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
        found.append(request.SerializeToString())
    return found


class Callers:
    """Four of them, each with a connection of its own."""

    def __init__(self, address: str) -> None:
        self.statuses: Counter[str] = Counter()
        self._address = address
        self._stopping = asyncio.Event()
        every = requests()
        self._tasks = [asyncio.ensure_future(self._call(every[begin:] + every[:begin])) for begin in (0, 250, 500, 750)]

    async def _call(self, messages: list[bytes]) -> None:
        async with GrpcClient(self._address, None) as client:
            while not self._stopping.is_set():
                for message in messages:
                    self.statuses[(await client.call(PREDICT, message)).status] += 1
                    if self._stopping.is_set():
                        break

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)


@pytest.mark.parametrize(
    ("candidate", "phase", "lost"),
    [
        pytest.param(GOOD, "promoted", 0, id="good"),
        pytest.param(SLOW, "rolled-back", 0, id="slow"),
        pytest.param(NAN, "rolled-back", 0, id="nan"),
        pytest.param(SHIFTED, "rolled-back", 0, id="shifted"),
        pytest.param(BROKEN, "rolled-back", 7 + 4, id="broken"),
    ],
)
async def test_versions(candidate: int, phase: str, lost: int, tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as local:
        script = str(Path(__file__).with_name("versions.py"))
        command = (sys.executable, script, str(tmp_path / "models"))
        serving = await Child.start("the SavedModels", *command, directory=tmp_path, timeout=300)
        try:
            metrics = [{"name": name} for name in METRICS]
            it = await RolloutMesh.under_way(
                local, serving, MODEL, candidate, stepWeights=[50], interval="2s", minCalls=300, metrics=metrics
            )
            callers = Callers(it.application.outbound)
            status: dict[str, Any] = await it.becomes("promoted", "rolled-back", seconds=400.0)
            print(candidate, {name: status.get(name) for name in ("phase", "message", "why")})
            assert status["phase"] == phase
            await it.has(100.0 if phase == "promoted" else 0.0)
            before = sum(callers.statuses.values())
            while sum(callers.statuses.values()) < before + 50:
                await asyncio.sleep(0.05)
            await callers.stop()
            failed = sum(count for word, count in callers.statuses.items() if word != "OK")
            print(dict(callers.statuses))
            assert failed <= lost
        finally:
            await serving.stop()
