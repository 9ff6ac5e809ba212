"""The rollouts of one of several workers.

Identity, documents and reports are the business of their supervisor, but each worker has a stream of its own for
rollouts: a weight is used by the process that chooses, and a burst is seen where its calls are. The control plane adds
up what the workers say as it does for several replicas.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy.sidecar.control_channel import ControlChannel
from meshproxy.sidecar.control_rollouts import ControlRollouts
from meshproxy.sidecar.identity_source import identity_source
from meshproxy.sidecar.rollouts import Rollouts
from meshproxy.sidecar.shown_identity import ShownIdentity

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.config.rollouts import ModelRollout
    from meshproxy.config.sidecars import ControlPlane, Sidecar
    from meshproxy.routing.carried_state import CarriedState


class WorkerRollouts:
    """The stream of one worker. It is not opened while there are no rollouts that the sidecar chooses for.

    Args:
        own: the sidecar's document.
        settings: of its control plane.
        number: of the worker, counted from 0: each keeps its state in a file of its own.
    """

    def __init__(self, own: Sidecar, settings: ControlPlane, number: int) -> None:
        identity = own.spec.identity
        self._shown = ShownIdentity(identity_source(identity, ())) if identity is not None else None
        self._channel = ControlChannel(settings, shown=self._shown)
        self._name = own.metadata.name
        self._path = Path(settings.folder) / f"rollouts-{number}.json"
        self._stream: ControlRollouts | None = None

    def rollouts(self, live: CarriedState, is_loaded: Callable[[ModelRollout], bool | None]) -> Rollouts:
        """What moves the weights of rollouts, as the control plane says (`run`). `live` has their arms.
        `is_loaded`: see `Rollouts`."""
        rollouts = Rollouts(live, self._path, is_loaded)
        self._stream = ControlRollouts(self._name, rollouts, self._channel)
        return rollouts

    async def run(self) -> None:
        """Follow the control plane until cancelled, whatever happens to it."""
        parts = (self._shown, self._stream)
        await self._channel.run([asyncio.create_task(each.run()) for each in parts if each is not None])
