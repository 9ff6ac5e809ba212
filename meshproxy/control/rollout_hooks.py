"""Webhooks of rollouts: POST of a JSON object, signed if there is a secret, retried; 2xx is yes.

    {"rollout": ..., "model": ..., "type": ..., "phase": ..., "weight": ..., "attempt": ..., "at": ...,
     "reason": ..., "message": ..., "metadata": {...}}

`x-meshproxy-signature: sha256=HEX` is the HMAC-SHA-256 of the body. Redirects are not followed, and no more than the
first bytes of an answer are read.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from meshproxy.rollout.steps import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.config.rollouts import HookWord, Webhook
    from meshproxy.rollout.steps import Notice, Steps

logger = logging.getLogger(__name__)

GATES: dict[Gate, tuple[HookWord, ...]] = {
    Gate.START: ("confirm-rollout", "pre-rollout"),
    Gate.INCREASE: ("confirm-traffic-increase",),
    Gate.PROMOTION: ("confirm-promotion",),
}
ENDS = frozenset({"Promoted", "RolledBack"})
"""After which `post-rollout` is called."""
SHOWN = 200
"""Characters of an answer that says no."""
BACKOFF = 1.0
"""Seconds before the first further try; each next one waits twice as long."""
MOST_EVENTS = 64
"""Calls that tell something, at once; further ones are dropped and logged."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Of the webhooks of a gate."""

    is_yes: bool
    is_failure: bool = False
    """No, and that is a failed window: `pre-rollout`."""
    why: str = ""


class Hooks:
    """Calls them."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._telling: set[asyncio.Task[None]] = set()

    def has(self, steps: Steps, gate: Gate) -> bool:
        """Whether a gate has webhooks."""
        return any(hook.type in GATES[gate] for hook in steps.spec.webhooks)

    async def ask(self, name: str, steps: Steps, gate: Gate) -> Answer:
        """Ask those of a gate, in the order of the document, until one says no."""
        for kind in GATES[gate]:
            for hook in steps.spec.webhooks:
                if hook.type == kind:
                    why = await self._call(hook, self._body(name, steps, hook, "", ""))
                    if why:
                        return Answer(False, kind == "pre-rollout", f"webhook {hook.name}: {why}")
        return Answer(True)

    def event(self, name: str, steps: Steps, notice: Notice) -> None:
        """Tell those that are told everything, and at the end those that are told of that. Nobody waits for them."""
        kinds = {"event", "post-rollout"} if notice.reason in ENDS else {"event"}
        for hook in steps.spec.webhooks:
            if hook.type not in kinds:
                continue
            if len(self._telling) >= MOST_EVENTS:
                logger.warning("a webhook is not called: too many are", extra={"fields": {"webhook": hook.name}})
                continue
            body = self._body(name, steps, hook, notice.reason, notice.message)
            task = asyncio.get_running_loop().create_task(self._tell(hook, body))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell(self, hook: Webhook, body: bytes) -> None:
        why = await self._call(hook, body)
        if why:
            logger.warning("a webhook was not told", extra={"fields": {"webhook": hook.name, "problem": why}})

    def _body(self, name: str, steps: Steps, hook: Webhook, reason: str, message: str) -> bytes:
        status = steps.status
        return msgspec.json.encode(
            {
                "rollout": name,
                "model": steps.spec.model,
                "type": hook.type,
                "phase": status.phase,
                "weight": status.weight,
                "attempt": status.attempt,
                "at": self._clock(),
                "reason": reason,
                "message": message,
                "metadata": hook.metadata,
            }
        )

    async def _call(self, hook: Webhook, body: bytes) -> str:
        """Why it is no; empty for yes. A body is tried again if there is no answer, or one that says 5xx."""
        headers = {"content-type": "application/json"}
        if hook.secret_file is not None:
            try:
                secret = (await asyncio.to_thread(Path(hook.secret_file).read_bytes)).strip()
            except OSError as error:
                return f"the secret cannot be read: {error}"
            if not secret:
                return f"the secret file {hook.secret_file} is empty"
            headers["x-meshproxy-signature"] = f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"
        why = ""
        timeout = aiohttp.ClientTimeout(total=hook.timeout)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for attempt in range(hook.retries + 1):
                if attempt:
                    await asyncio.sleep(BACKOFF * 2 ** (attempt - 1))
                try:
                    async with session.post(hook.url, data=body, headers=headers, allow_redirects=False) as response:
                        if 200 <= response.status < 300:
                            return ""
                        text = (await response.content.read(SHOWN)).decode("utf-8", "replace")
                        why = f"it answered {response.status}: {text!r}"
                        if response.status < 500:
                            return why
                except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                    why = f"no answer ({type(error).__name__})"
        return why
