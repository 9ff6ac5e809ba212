"""Before anything is measured: a proxy must refuse what the policy denies; otherwise its figures are for less work."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from benchmarks.peers.peer import MODEL, PREDICT_PATH
from benchmarks.works.work import Failed
from meshproxy.devtools.load.generator import Driver
from meshproxy.devtools.load.messages import grpc_request, rest_body
from meshproxy.devtools.load.target import Target, grpc_slots, open_grpc, open_rest, rest_request

if TYPE_CHECKING:
    from benchmarks.context import Context
    from benchmarks.peers.peer import Running
    from meshproxy.devtools.load.generator import Slot

FOREIGN_MODEL = "not_permitted"


async def check_refusals(context: Context, running: Running, protocol: str) -> None:
    """A good request passes; one without a token, one with a forged token and (REST) one for another model do not.

    Raises:
        Failed: one of them was treated otherwise.
    """
    port = running.rest_port if protocol == "rest" else running.grpc_port
    good = context.target(running, port)
    error = await _ask(good, protocol, MODEL)
    if error is not None:
        raise Failed(f"refuses a request that it should forward: {error}")
    if running.child is None:
        return
    assert good.token is not None
    forged = good.token[:-8] + ("AAAAAAA=" if good.token.endswith("B") else "BBBBBBBB")
    for what, target, model in (
        ("without a token", Target(good.host, good.port, good.tls), MODEL),
        ("with a forged token", Target(good.host, good.port, good.tls, None, forged), MODEL),
        ("for a model that no rule allows", good, FOREIGN_MODEL),
    ):
        if protocol == "grpc" and model != MODEL and not running.sees_grpc_model:
            continue
        if await _ask(target, protocol, model) is None:
            raise Failed(f"forwards a request {what}, so its figures would be for less work")
    if good.tls is not None:
        anonymous = ssl.create_default_context(cafile=str(context.credentials.bundle))
        anonymous.check_hostname = False
        try:
            error = await _ask(Target(good.host, good.port, anonymous, None, good.token), protocol, MODEL)
        except (OSError, TimeoutError):
            return
        if error is None:
            raise Failed("forwards a request without a client certificate")


async def _ask(target: Target, protocol: str, model: str) -> str | None:
    """What went wrong with one request, or None."""
    driver = Driver()
    slots: list[Slot]
    if protocol == "rest":
        request = rest_request(target, PREDICT_PATH.replace(MODEL, model), rest_body(30))
        rest = await open_rest(target, request, 1, driver)
        slots, transport = [*rest], rest[0].transport
    else:
        grpc = await open_grpc(target, grpc_request(model, 30), 1, 1, driver)
        slots, transport = [*grpc_slots(grpc)], grpc[0].transport
    try:
        run = await asyncio.wait_for(driver.run_closed(slots, 5, at_most=1), 10)
    finally:
        transport.abort()
    if run.errors:
        return next(iter(run.errors))
    return None if run.done else "no answer"
