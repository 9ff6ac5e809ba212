"""Whether the model server is watched, as documents change."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.config import telemetry
from meshproxy.config.schema import Documents
from meshproxy.sidecar import worker_calls
from meshproxy.sidecar.server_metrics import ServerMetrics
from meshproxy.telemetry.hop_lag import CallTimes
from meshproxy.telemetry.observer import Observer
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics


def documents(
    interval: float | None,
    server: str | None = "local",
    path: str = "/metrics",
    *,
    relay: bool = False,
    ports: tuple[int, ...] = (),
) -> Documents:
    settings = None if interval is None else telemetry.ServerMetrics(interval=interval, relay=relay)
    inbound = None if server is None else SimpleNamespace(server=server)
    made: Any = SimpleNamespace(
        mesh=SimpleNamespace(spec=SimpleNamespace(telemetry=telemetry.Telemetry(model_server=settings))),
        sidecar=SimpleNamespace(
            spec=SimpleNamespace(
                inbound=inbound,
                worker_ports=ports,
                admin=SimpleNamespace(listen=SimpleNamespace(host="0.0.0.0")),
            )
        ),
        servers=[SimpleNamespace(metadata=SimpleNamespace(name="local"), spec=SimpleNamespace(metrics_path=path))],
    )
    found: Documents = made
    return found


class World:
    def __init__(self, worker: int | None = None) -> None:
        self.metrics = SidecarMetrics()
        self.observer = Observer(self.metrics.telemetry_failures, [])
        clusters: Any = SimpleNamespace(all=list)
        self.server = ServerMetrics(clusters, self.metrics, self.observer, lambda remote: False, worker=worker)

    @property
    def sinks(self) -> tuple[Any, ...]:
        return self.observer._sinks


async def test_nothing_is_watched_unless_documents_say_so() -> None:
    world = World()
    world.server.adopt(documents(None))
    world.server.adopt(documents(10.0, server=None))
    assert world.sinks == ()
    assert world.server.raised == []
    await world.server.close()


async def test_the_watch_begins_changes_and_ends_with_the_documents() -> None:
    world = World()
    world.server.adopt(documents(10.0))
    (first,) = world.sinks
    world.server.adopt(documents(10.0))
    assert world.sinks == (first,)
    assert world.server.raised == []
    world.server.adopt(documents(20.0))
    (second,) = world.sinks
    assert second != first
    world.server.adopt(documents(20.0, path="/elsewhere"))
    assert world.sinks != (second,)
    world.server.adopt(documents(None))
    assert world.sinks == ()
    await world.server.close()


async def test_it_ends_with_the_sidecar() -> None:
    world = World()
    world.server.adopt(documents(10.0))
    await world.server.close()
    assert world.sinks == ()


async def test_the_first_worker_asks_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[str]] = []

    def adds_up(own: CallTimes, others: list[str]) -> Any:
        made.append(others)
        return SimpleNamespace(read=None)

    monkeypatch.setattr(worker_calls, "WorkerCalls", adds_up)
    for worker in (0, 1):
        world = World(worker)
        assert world.server.tell() is None
        world.server.adopt(documents(10.0, ports=(18503, 18504, 18505)))
        assert len(world.sinks) == 1
        told = world.server.tell()
        assert told is not None
        assert told["models"] == {}
        await world.server.close()
        assert world.sinks == ()
    assert made == [["127.0.0.1:18504", "127.0.0.1:18505"]]


async def test_workers_without_ports_are_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    world = World(0)
    world.server.adopt(documents(10.0, ports=(0, 0)))
    assert "set admin.firstWorkerPort" in caplog.text
    assert world.server.raised == []
    await world.server.close()


async def test_the_page_is_relayed_if_documents_say_so() -> None:
    world = World()
    world.server.adopt(documents(10.0))
    assert world.server.relay("10.0.0.1:1") is None
    world.server.adopt(documents(10.0, relay=True))
    relayed = world.server.relay("10.0.0.1:1")
    assert relayed is not None
    assert await relayed is None  # it is not permitted
    world.server.adopt(documents(None))
    assert world.server.relay("10.0.0.1:1") is None
    await world.server.close()


async def test_of_several_workers_the_first_relays_it() -> None:
    for worker, does in ((0, True), (1, False)):
        world = World(worker)
        world.server.adopt(documents(10.0, relay=True))
        relayed = world.server.relay("10.0.0.1:1")
        assert (relayed is not None) is does
        if relayed is not None:
            assert await relayed is None
        await world.server.close()


async def test_a_watch_that_fails_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from meshproxy.sidecar.hop_watch import HopWatch

    async def run(self: HopWatch) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(HopWatch, "run", run)
    world = World()
    world.server.adopt(documents(10.0))
    task = world.server._running
    assert task is not None
    with pytest.raises(RuntimeError):
        await task
    await world.server.close()
    assert "the hop lag is not measured any longer" in caplog.text
