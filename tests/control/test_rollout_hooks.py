"""Webhooks, against a real HTTP server: who says yes, who is asked again, and what is signed."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from meshproxy.config.rollouts import Arm, RolloutSpec, Webhook
from meshproxy.control import rollout_hooks as module
from meshproxy.control.rollout_hooks import Hooks
from meshproxy.rollout.steps import Gate, Notice, Steps


class Receiver:
    def __init__(self) -> None:
        self.statuses = [200]
        self.got: list[tuple[dict[str, Any], Any, bytes]] = []
        self.told = asyncio.Event()
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.got.append((json.loads(body), request.headers, body))
        self.told.set()
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return web.Response(status=status, text="no, not today", headers={"location": "/elsewhere"})


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    monkeypatch.setattr(module, "BACKOFF", 0.0)
    it = Receiver()
    application = web.Application()
    application.add_routes([web.post("/hook", it.take)])
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    it.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield it
    await runner.cleanup()


def steps(*hooks: Webhook) -> Steps:
    spec = RolloutSpec(model="half", stable=Arm(version="1"), candidate=Arm(version="2"), webhooks=hooks)
    return Steps(spec, "r", None, 5.0)


async def test_yes(receiver: Receiver) -> None:
    made = steps(Webhook(name="a", type="confirm-rollout", url=receiver.url, metadata={"team": "vision"}))
    hooks = Hooks(lambda: 7.0)
    assert hooks.has(made, Gate.START)
    assert not hooks.has(made, Gate.PROMOTION)
    assert (await hooks.ask("r1", made, Gate.START)).is_yes
    assert receiver.got[0][0] == {
        "rollout": "r1", "model": "half", "type": "confirm-rollout", "phase": "waiting", "weight": 0.0, "attempt": 1,
        "at": 7.0, "reason": "", "message": "", "metadata": {"team": "vision"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("statuses", "calls", "is_yes"),
    [([503, 200], 2, True), ([503], 3, False), ([412], 1, False), ([302], 1, False)],
)
async def test_who_is_asked_again(receiver: Receiver, statuses: list[int], calls: int, is_yes: bool) -> None:
    receiver.statuses = list(statuses)
    answer = await Hooks().ask("r", steps(Webhook(name="a", type="pre-rollout", url=receiver.url)), Gate.START)
    assert (answer.is_yes, answer.is_failure, len(receiver.got)) == (is_yes, not is_yes, calls)
    assert is_yes or "it answered" in answer.why


async def test_nobody_there() -> None:
    hook = Webhook(name="a", type="confirm-promotion", url="http://127.0.0.1:1/", retries=0)
    answer = await Hooks().ask("r", steps(hook), Gate.PROMOTION)
    assert (answer.is_yes, answer.is_failure) == (False, False)
    assert answer.why.startswith("webhook a: no answer")


async def test_it_is_signed(receiver: Receiver, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    hook = Webhook(name="a", type="confirm-rollout", url=receiver.url, secret_file=str(secret))
    assert (await Hooks().ask("r", steps(hook), Gate.START)).is_yes
    _, headers, body = receiver.got[0]
    assert headers["x-meshproxy-signature"] == "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("content", [None, " \n"])
async def test_without_its_secret_it_is_not_called(receiver: Receiver, tmp_path: Path, content: str | None) -> None:
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_text(content)
    hook = Webhook(name="a", type="confirm-rollout", url=receiver.url, secret_file=str(secret))
    assert "secret" in (await Hooks().ask("r", steps(hook), Gate.START)).why
    assert receiver.got == []


async def test_those_that_are_told(receiver: Receiver) -> None:
    hooks = Hooks()
    made = steps(Webhook(name="a", type="post-rollout", url=receiver.url))
    hooks.event("r", made, Notice(1.0, "Advanced", "10 %"))
    hooks.event("r", made, Notice(1.0, "RolledBack", "it fails"))
    await receiver.told.wait()
    assert [body["reason"] for body, _, _ in receiver.got] == ["RolledBack"]
