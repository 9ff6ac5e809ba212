"""The supervisor's admin port over UNIX sockets that answer, hang, or are not there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meshproxy.codec.limits import Limits
from meshproxy.sidecar import overview as module
from meshproxy.sidecar.admin import Unobserved
from meshproxy.sidecar.overview import Overview, ask
from meshproxy.sidecar.worker import Seat
from meshproxy.telemetry.metrics import Counter, CounterSeries, Gauge, Registry
from meshproxy.transport.client import ClientError, Failure
from meshproxy.transport.connection import Driving, Times
from meshproxy.transport.listener import Listener, Security
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper

Answer = Callable[[str], tuple[int, str] | None]
"""Target -> status and body; None: never."""


@dataclass
class Fake:
    """As much of a `supervisor.Worker` as the overview looks at, and what it answers."""

    seat: Seat
    answer: Answer
    state: str = "serving"
    lives: int = 1
    pid: int | None = 42
    asked: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        target = head.split()[1].decode()
        self.asked.append(target)
        answer = self.answer(target)
        if answer is None:
            await reader.read()
        else:
            status, body = answer
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body.encode()))
        writer.close()


class Scene:
    """A listener with the overview of some fake workers."""

    def __init__(self, folder: Path) -> None:
        loop = asyncio.get_running_loop()
        self.folder = folder
        self.workers: list[Fake] = []
        self.is_draining = False
        registry = Registry()
        Gauge(registry, "meshproxy_open_connections", "O.", ()).labels().value = 1
        self.missed: CounterSeries = Counter(registry, "missed_total", "M.", ()).labels()
        self.overview = Overview(loop, registry, self, self.missed)  # type: ignore[arg-type]
        nobody = Unobserved()
        self.listener = Listener(
            direction="admin",
            driving=Driving(
                loop=loop,
                outbox=Outbox(loop),
                reaper=Reaper(loop),
                limits=Limits(),
                times=Times(),
                on_limit=nobody.limit,
            ),
            serve=self.overview.serve,
            reject=self.overview.reject,
            events=nobody,
            security=Security.PLAINTEXT,
            context=None,
            identify=lambda der: None,
            max_connections=8,
        )
        self.listener.listen("127.0.0.1", 0)
        self.servers: list[asyncio.AbstractServer] = []

    async def add(self, answer: Answer) -> Fake:
        worker = Fake(Seat(len(self.workers), 1, 0, self.folder), answer)
        self.servers.append(await asyncio.start_unix_server(worker.serve, worker.seat.socket))
        self.workers.append(worker)
        return worker

    async def get(self, target: str, *fields: str, method: str = "GET") -> tuple[int, str]:
        host, _, port = self.listener.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = (f"{method} {target} HTTP/1.0", f"host: {host}", *fields, "", "")
        writer.write("\r\n".join(lines).encode())
        head, _, body = (await asyncio.wait_for(reader.read(), 10)).decode().partition("\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body

    async def close(self) -> None:
        await self.listener.close()
        await self.overview.close()
        for server in self.servers:
            server.close()

    # overview.Supervised

    def readiness(self) -> dict[str, bool]:
        return {"not draining": not self.is_draining}

    def configuration(self) -> dict[str, object]:
        return {"pid": 1}

    def drain(self) -> None:
        self.is_draining = True


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(tmp_path)
    yield made
    await made.close()


def numbers(requests: int, open_connections: int = 1) -> Answer:
    """A worker that serves /metrics."""
    page = (
        f"# HELP a_total A.\n# TYPE a_total counter\na_total {requests}\n# HELP meshproxy_open_connections O.\n"
        f"# TYPE meshproxy_open_connections gauge\nmeshproxy_open_connections {open_connections}\n"
    )
    return lambda target: (200, page)


def never(target: str) -> None:
    return None


async def test_the_numbers_of_all_add_up(scene: Scene) -> None:
    await scene.add(numbers(3))
    await scene.add(numbers(4))
    status, body = await scene.get("/metrics")
    assert status == 200
    assert "\na_total 7\n" in body
    assert "\nmeshproxy_open_connections 3\n" in body
    assert await scene.get("/metrics", method="HEAD") == (200, "")
    _, body = await scene.get("/metrics", "accept: application/openmetrics-text")
    assert body.endswith("# EOF\n")


async def test_who_hangs_holds_nothing_up_and_its_counts_stand(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await scene.add(numbers(3))
    other = await scene.add(numbers(4))
    await scene.get("/metrics")
    monkeypatch.setattr(module, "ASK_SECONDS", 0.05)
    other.answer = never
    _, body = await scene.get("/metrics")
    assert "\na_total 7\n" in body
    assert "\nmeshproxy_open_connections 2\n" in body
    assert scene.missed.value == 1
    assert "missed_total 1\n" in body


async def test_whoever_asks_meanwhile_gets_the_same_numbers(scene: Scene) -> None:
    worker = await scene.add(numbers(3))
    pages = await asyncio.gather(*(scene.get("/metrics") for _ in range(5)))
    assert all("\na_total 3\n" in body for _, body in pages)
    assert len(worker.asked) < 5


async def test_the_dead_are_remembered_and_their_successors_begin_at_zero(scene: Scene) -> None:
    worker = await scene.add(numbers(3))
    await scene.get("/metrics")
    worker.state = "waiting"
    scene.overview.died(0)
    assert "\na_total 3\n" in (await scene.get("/metrics"))[1]
    worker.state, worker.lives, worker.answer = "serving", 2, numbers(1)
    assert "\na_total 4\n" in (await scene.get("/metrics"))[1]


async def test_an_answer_of_one_that_died_meanwhile_is_not_its_successors(scene: Scene) -> None:
    worker = await scene.add(never)

    def dying(target: str) -> tuple[int, str] | None:
        worker.lives = 2
        return numbers(3)(target)

    worker.answer = dying
    assert "a_total" not in (await scene.get("/metrics"))[1]


async def test_nonsense_is_left_out(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    await scene.add(lambda target: (200, "nonsense\n"))
    await scene.add(numbers(4))
    assert "\na_total 4\n" in (await scene.get("/metrics"))[1]
    assert "the numbers of worker 0 cannot be read" in caplog.text


async def test_ready_when_all_are(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await scene.add(lambda target: (200, "ready\n"))
    other = await scene.add(lambda target: (200, "ready\n"))
    assert await scene.get("/readyz") == (200, "ready\n")
    other.answer = lambda target: (503, "not ready\n")
    assert await scene.get("/readyz") == (503, "[-] worker 1 is ready\nnot ready\n")
    assert scene.missed.value == 0
    monkeypatch.setattr(module, "ASK_SECONDS", 0.05)
    other.answer = never
    assert (await scene.get("/readyz"))[0] == 503
    other.state = "starting"
    status, body = await scene.get("/readyz?verbose")
    assert status == 503
    assert "[+] not draining\n[+] worker 0 is ready\n[-] worker 1 is ready" in body


async def test_configurations_are_compared(scene: Scene) -> None:
    await scene.add(lambda target: (200, '{"fingerprint": "a"}'))
    other = await scene.add(lambda target: (200, '{"fingerprint": "a"}'))
    page = json.loads((await scene.get("/config"))[1])
    assert (page["fingerprint"], page["same"], page["pid"]) == ("a", True, 1)
    assert [worker["configuration"] for worker in page["workers"]] == [{"fingerprint": "a"}] * 2
    other.answer = lambda target: (200, '{"fingerprint": "b"}')
    page = json.loads((await scene.get("/config"))[1])
    assert (page["fingerprint"], page["same"]) == (None, False)
    other.state = "waiting"
    page = json.loads((await scene.get("/config"))[1])
    assert (page["same"], page["workers"][1]["configuration"]) == (False, None)


async def test_the_rest_is_as_ever(scene: Scene) -> None:
    assert await scene.get("/livez") == (200, "ok\n")
    assert (await scene.get("/nothing"))[0] == 404
    assert (await scene.get("/drain", method="POST"))[0] == 202
    assert scene.is_draining


async def test_asking_says_what_went_wrong(scene: Scene, tmp_path: Path) -> None:
    worker = await scene.add(lambda target: (404, ""))
    expected = [
        (worker.seat.socket, 1.0, Failure.STATUS),
        (tmp_path / "missing", 1.0, Failure.CONNECT),
        (worker.seat.socket, 0.05, Failure.TIMEOUT),
    ]
    for path, seconds, failure in expected:
        if failure is Failure.TIMEOUT:
            worker.answer = never
        with pytest.raises(ClientError) as failed:
            await ask(path, b"/", seconds)
        assert failed.value.failure is failure
