"""Predict calls at a rate, in plain text, as an application makes them to its sidecar's outbound port: an open loop,
and the result of every call."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import TYPE_CHECKING

from meshproxy.devtools.load.generator import Driver
from meshproxy.devtools.load.schedule import uniform
from meshproxy.devtools.load.target import Target, grpc_slots, open_grpc, open_rest, rest_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.devtools.load.generator import Run, Slot

MODEL = "half_plus_two"


def target_of(address: str, name: str) -> Target:
    """The port at an address, where the server of this name is asked for."""
    host, _, port = address.rpartition(":")
    return Target(host, int(port), server_name=name)


async def predict_over_rest(
    address: str,
    rate: float,
    seconds: float,
    *,
    name: str = "models",
    model: str = MODEL,
    connections: int = 32,
) -> Run:
    """POST .../MODEL:predict, `rate` times a second.

    Raises:
        OSError: the port cannot be connected to.
    """
    driver = Driver()
    target = target_of(address, name)
    request = rest_request(target, f"/v1/models/{model}:predict", json.dumps({"instances": [1.0]}).encode())
    opened = await open_rest(target, request, connections, driver)
    return await _run(driver, opened, [each.transport for each in opened], rate, seconds)


async def predict_over_grpc(
    address: str,
    rate: float,
    seconds: float,
    message: bytes,
    *,
    name: str = "models",
    connections: int = 1,
    streams: int = 64,
) -> Run:
    """PredictionService/Predict with this message, `rate` times a second, on so many streams of so many connections.

    Raises:
        OSError: the port cannot be connected to, or what listens there speaks no HTTP/2.
    """
    driver = Driver()
    opened = await open_grpc(target_of(address, name), message, connections, streams, driver)
    return await _run(driver, grpc_slots(opened), [each.transport for each in opened], rate, seconds)


async def _run(
    driver: Driver, slots: Sequence[Slot], transports: Sequence[asyncio.Transport], rate: float, seconds: float
) -> Run:
    try:
        gc.collect()
        return await driver.run_open(slots, uniform(rate, seconds))
    finally:
        for transport in transports:
            transport.abort()
        await asyncio.sleep(0)
