"""What readiness depends on. The whole of `/readyz` and `/config` is in test_app.py, with real parts."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from meshproxy.sidecar.configuration import MOST_PROBLEMS, PROBLEM_CHARACTERS, Reload
from meshproxy.sidecar.status import Status
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics


class World:
    """Parts that are as they are said to be."""

    def __init__(self) -> None:
        self.not_after = time.time() + 60
        self.identity: Any = SimpleNamespace(current=SimpleNamespace(workload=self), problem=None)
        self.configuration: Any = SimpleNamespace(health=None, last_reload=None)
        self.tokens: Any = SimpleNamespace(are_known=True)
        self.clusters: Any = SimpleNamespace(conditions=lambda: {"endpoints of a are known": True})
        self.server_metrics: Any = SimpleNamespace(raised=[], tell=lambda: {"models": {}})
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
            scaling=None,
            metrics=SidecarMetrics(),
            server_metrics=self.server_metrics,
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


def test_what_was_rejected_is_noted() -> None:
    world = World()
    assert world.status().notes() == []
    world.configuration.last_reload = Reload(1.0)
    assert world.status().notes() == []
    world.configuration.last_reload = Reload.rejected(["f.yaml:3: bad", "worse"])
    world.identity.problem = "another key"
    assert world.status().notes() == [
        "configuration rejected, the previous one is in use: f.yaml:3: bad",
        "configuration rejected, the previous one is in use: worse",
        "certificate rejected, the previous one is in use: another key",
    ]


def test_what_is_kept_of_rejected_documents_is_bounded() -> None:
    kept = Reload.rejected(["x" * 10_000] * 1_000).problems
    assert kept == ("x" * PROBLEM_CHARACTERS,) * MOST_PROBLEMS


def test_models_whose_hop_lag_has_risen_are_noted() -> None:
    world = World()
    world.server_metrics.raised = ["m"]
    assert world.status().calls() == {"models": {}}
    assert world.status().notes() == ["the hop lag of these models has risen: m"]
