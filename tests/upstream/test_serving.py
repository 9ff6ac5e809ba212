"""The health of a model server as grpc.health.v1 has it: what is reported, and who is told of changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.inference.grpc_health import Serving
from meshproxy.upstream.health import CheckSettings, Health
from meshproxy.upstream.serving import WHOLE_SERVER, HealthService

SERVING, NOT_SERVING, UNKNOWN = Serving.SERVING, Serving.NOT_SERVING, Serving.SERVICE_UNKNOWN


def service_of(*healths: Health | None) -> HealthService:
    cluster: Any = SimpleNamespace(
        endpoints={str(number): SimpleNamespace(health=health) for number, health in enumerate(healths)}
    )
    return HealthService(cluster)


@pytest.fixture
def health() -> Health:
    """Of a server that was well when it was checked."""
    health = Health(CheckSettings(("m", "n"), unhealthy_after=1))
    for what in (None, "m", "n"):
        health.record(what, True, 99.0)
    return health


@pytest.fixture
def service(health: Health) -> HealthService:
    return service_of(health, None)


class Watching:
    """A call of Watch."""

    def __init__(self, service: str, health: HealthService) -> None:
        self.service = service
        self.health = health
        self.told: list[Serving | str] = []

    def send_status(self, status: Serving) -> None:
        self.told.append(status)

    def end(self) -> None:
        self.told.append("end")
        self.health.forget(self)  # as its request does when it is over


class TestStatus:
    @pytest.mark.parametrize("name", sorted(WHOLE_SERVER))
    def test_of_the_whole_server(self, service: HealthService, health: Health, name: str) -> None:
        assert service.serving(name) is SERVING
        health.record("m", False, 100.0)
        assert service.serving(name) is SERVING
        health.record(None, False, 100.0)
        assert service.serving(name) is NOT_SERVING

    def test_of_a_model(self, service: HealthService, health: Health) -> None:
        assert service.serving("m") is SERVING
        health.record("m", False, 100.0)
        assert (service.serving("m"), service.serving("n")) == (NOT_SERVING, SERVING)

    def test_a_server_that_is_down_serves_no_model(self, service: HealthService, health: Health) -> None:
        health.record(None, False, 100.0)
        assert service.serving("m") is NOT_SERVING

    def test_of_what_is_not_checked(self, service: HealthService) -> None:
        assert service.serving("other") is UNKNOWN

    def test_without_health_checks_every_model_is_unknown(self) -> None:
        service = service_of(None)
        assert (service.serving("m"), service.serving("")) == (UNKNOWN, NOT_SERVING)

    def test_before_the_first_check_has_ended(self) -> None:
        health = Health(CheckSettings(("m",)))
        assert health.allows("m")
        assert service_of(health).serving("m") is NOT_SERVING

    def test_one_endpoint_that_serves_is_enough(self, health: Health) -> None:
        bad = Health(CheckSettings(("m", "n"), unhealthy_after=1))
        bad.record(None, False, 99.0)
        assert service_of(bad, health).serving("m") is SERVING


class TestWatchers:
    def test_each_is_told_of_its_own_service(self, service: HealthService, health: Health) -> None:
        first, second = Watching("m", service), Watching("n", service)
        service.watch(first)
        service.watch(second)
        assert (first.told, second.told) == ([], [])
        health.record("m", False, 100.0)
        service.changed()
        assert (first.told, second.told) == ([NOT_SERVING], [SERVING])

    def test_one_that_is_forgotten_is_told_nothing(self, service: HealthService) -> None:
        watcher = Watching("m", service)
        service.watch(watcher)
        service.forget(watcher)
        service.forget(watcher)
        service.changed()
        service.drain()
        assert watcher.told == []

    def test_a_drain_ends_them(self, service: HealthService) -> None:
        watchers = [Watching("m", service), Watching("", service)]
        for watcher in watchers:
            service.watch(watcher)
        service.drain()
        assert [watcher.told for watcher in watchers] == [[NOT_SERVING, "end"]] * 2
        assert service.serving("m") is NOT_SERVING
        assert service.serving("other") is UNKNOWN

    def test_one_that_comes_after_the_drain_ends_at_once(self, service: HealthService) -> None:
        service.drain()
        watcher = Watching("m", service)
        service.watch(watcher)
        assert watcher.told == ["end"]
        service.changed()
        assert watcher.told == ["end"]


def test_readiness_depends_on_the_server_and_each_model(service: HealthService, health: Health) -> None:
    assert service.conditions() == {
        "model server answers": True,
        "model m is available": True,
        "model n is available": True,
    }
    health.record("n", False, 100.0)
    assert service.conditions()["model n is available"] is False
    health.record(None, False, 100.0)
    assert not any(service.conditions().values())
