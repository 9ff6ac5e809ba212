"""What readiness depends on. The whole of `/readyz` and `/config` is in test_app.py, with real parts."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from meshproxy.sidecar.status import Status


class World:
    """Parts that are as they are said to be."""

    def __init__(self) -> None:
        self.not_after = time.time() + 60
        self.identity: Any = SimpleNamespace(current=SimpleNamespace(workload=self))
        self.configuration: Any = SimpleNamespace(health=None)
        self.tokens: Any = SimpleNamespace(are_known=True)
        self.clusters: Any = SimpleNamespace(conditions=lambda: {"endpoints of a are known": True})
        self.is_draining = False
        self.drained = 0

    def drain(self) -> None:
        self.drained += 1

    def status(self) -> Status:
        return Status(
            self.configuration,
            self.identity,
            self.tokens,
            self.clusters,
            [],
            is_draining=lambda: self.is_draining,
            drain=self.drain,
        )

    @property
    def missing(self) -> list[str]:
        return [name for name, holds in self.status().readiness().items() if not holds]


def test_ready_hangs_on_each_part() -> None:
    world = World()
    assert world.missing == []
    world.not_after = time.time() - 1
    world.tokens.are_known = False
    world.clusters.conditions = lambda: {"endpoints of a are known": False}
    world.configuration.health = SimpleNamespace(conditions=lambda: {"model server answers": False})
    world.is_draining = True
    assert world.missing == [
        "certificate is valid",
        "a token issuer's keys are known",
        "endpoints of a are known",
        "model server answers",
        "not draining",
    ]


def test_without_tls_there_is_no_certificate_to_be_valid() -> None:
    world = World()
    world.not_after = 0.0
    world.identity.current = None
    assert world.missing == []


def test_drain_is_passed_on() -> None:
    world = World()
    world.status().drain()
    assert world.drained == 1
