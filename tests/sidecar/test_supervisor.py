"""The supervisor over children that only look like workers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshproxy.config.load import load
from meshproxy.config.schema import Documents
from meshproxy.devtools.local_mesh import environment
from meshproxy.sidecar import supervisor as module
from meshproxy.sidecar import worker_process
from meshproxy.sidecar.supervisor import Supervisor, reserve
from meshproxy.sidecar.worker import REPORT_PERIOD, WorkersFailed
from meshproxy.telemetry.exposition import render

COMMON = """
import json, os, signal, sys, time
number, inbound, outbound, admin, again, folder = sys.argv[1].removeprefix("--worker=").split(":", 5)
said = open(sys.argv[2] + "/said", "a", buffering=1)
say = lambda *words: said.write(" ".join((number, again, *words)) + "\\n")
"""
GOOD = """
def report(unmet=(), fingerprint="f"):
    said = {"admin": "127.0.0.1:" + admin, "fingerprint": fingerprint, "is_ready": not unmet, "unmet": unmet}
    os.write(0, json.dumps(said).encode())

signal.signal(signal.SIGHUP, lambda *_: say("hung up"))
signal.signal(signal.SIGUSR1, lambda *_: say("rotated"))
signal.signal(signal.SIGTERM, lambda *_: (say("told to stop"), sys.exit(0)))
say("started")
report()
while True:
    time.sleep(REPORT_PERIOD)
    report()
""".replace("REPORT_PERIOD", str(REPORT_PERIOD))
BAD = "say('started')\nsys.exit(7)"
STUBBORN = GOOD.replace('(say("told to stop"), sys.exit(0))', "None")
SILENT = "say('started')\ntime.sleep(60)"
LATE = GOOD.replace(
    "signal.signal(signal.SIGHUP",
    "say('up')\nwhile not os.path.exists(sys.argv[2] + '/go'): time.sleep(0.01)\nsignal.signal(signal.SIGHUP",
)


class Running:
    """A supervisor over fake workers."""

    def __init__(self, tmp_path: Path, script: str, drain: str = "1s", *, without: str = "", **more: Any) -> None:
        self.folder = tmp_path
        sidecar = {"workers": 2, "drainTimeout": drain, **more}
        path = tmp_path / "documents.yaml"
        given = environment("127.0.0.1:1", mtls="disabled", sidecar=sidecar)
        given[-1]["spec"].pop(without, None)
        path.write_text(yaml.safe_dump_all(given))
        documents: Documents = load([path])
        self.supervisor = Supervisor([str(tmp_path)], documents, (sys.executable, "-I", "-S", "-c", COMMON + script))
        self.task = asyncio.ensure_future(self.supervisor.run())

    @property
    def said(self) -> list[str]:
        """What the children said, `NUMBER IS_SUCCESSOR WORDS`."""
        path = self.folder / "said"
        return sorted(path.read_text().splitlines()) if path.exists() else []

    async def until_said(self, *lines: str) -> None:
        async with asyncio.timeout(60):
            while not set(lines) <= set(self.said):
                assert not self.task.done(), self.task
                await asyncio.sleep(0.01)

    async def until(self, **states: int) -> None:
        async with asyncio.timeout(60):
            while {row[0][0]: row[1] for row in self.supervisor._count_states() if row[1]} != states:
                assert not self.task.done(), self.task
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        self.supervisor.drain()
        await asyncio.wait_for(self.task, 60)

    def count(self, name: str) -> float:
        page = b"".join(render(self.supervisor.registry)).decode()
        return sum(
            float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith((name + " ", name + "{"))
        )


async def test_it_says_once_that_all_listen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    running = Running(tmp_path, GOOD)
    await running.until(serving=2)
    await asyncio.sleep(0)
    (line,) = [record for record in caplog.records if record.getMessage() == "listening"]
    fields: Any = line.__dict__["fields"]
    assert fields["inbound"].startswith("127.0.0.1:")
    assert fields["admin"].startswith("127.0.0.1:")
    assert fields["pid"] == os.getpid()
    assert fields["workers"] == [worker.pid for worker in running.supervisor.workers]
    inbound = int(fields["inbound"].rpartition(":")[2])
    assert {(each.slot.inbound_port, each.slot.outbound_port) for each in running.supervisor.workers} == {(inbound, 0)}
    assert "outbound" not in fields
    assert all(running.supervisor.readiness().values())
    folder = running.supervisor._folder
    await running.end()
    assert running.said == ["0 0 started", "0 0 told to stop", "1 0 started", "1 0 told to stop"]
    assert not running.supervisor.readiness()["not draining"]
    assert not folder.exists()


@pytest.mark.parametrize("without", ["", "inbound"])
async def test_workers_share_the_outbound_port_too(
    tmp_path: Path, without: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    running = Running(tmp_path, GOOD, without=without, outbound={"listen": "127.0.0.1:0"})
    await running.until(serving=2)
    await asyncio.sleep(0)
    (line,) = [record for record in caplog.records if record.getMessage() == "listening"]
    fields: Any = line.__dict__["fields"]
    assert ("inbound" in fields) == (not without)
    ports = [int(fields[side].rpartition(":")[2]) if side in fields else 0 for side in ("inbound", "outbound")]
    assert {(each.slot.inbound_port, each.slot.outbound_port) for each in running.supervisor.workers} == {tuple(ports)}
    assert running.supervisor.configuration()["outbound"] == fields["outbound"]
    await running.end()


async def test_an_outbound_port_that_somebody_has_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        running = Running(tmp_path, GOOD, outbound={"listen": address})
        with pytest.raises(OSError, match="in use"):
            await running.task
    assert running.said == []


async def test_signals_are_passed_on(tmp_path: Path) -> None:
    running = Running(tmp_path, GOOD)
    await running.until(serving=2)
    os.kill(os.getpid(), signal.SIGHUP)
    await running.until_said("0 0 hung up", "1 0 hung up")
    os.kill(os.getpid(), signal.SIGUSR1)
    await running.until_said("0 0 rotated", "1 0 rotated")
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running.task, 60)


async def test_who_still_starts_hears_of_a_reload_later(tmp_path: Path) -> None:
    running = Running(tmp_path, LATE)
    await running.until_said("0 0 up", "1 0 up")
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(0.05)
    (tmp_path / "go").touch()
    await running.until_said("0 0 hung up", "1 0 hung up", "0 0 rotated", "1 0 rotated")
    assert running.count("meshproxy_worker_restarts_total") == 0
    await running.end()


async def test_who_dies_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "FIRST_DELAY", 0.3)
    running = Running(tmp_path, GOOD)
    await running.until(serving=2)
    first, other = running.supervisor.workers
    pid, bystander = first.pid, other.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await running.until(serving=1, waiting=1)
    assert not running.supervisor.readiness()["worker 0 is ready"]
    assert first.pid is None
    await running.until(serving=2)
    await running.until_said("0 1 started")
    assert first.pid not in (None, pid)
    assert other.pid == bystander
    assert running.count("meshproxy_worker_restarts_total") == 1
    await running.end()


async def test_told_to_stop_it_starts_nobody_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "FIRST_DELAY", 60.0)
    running = Running(tmp_path, GOOD)
    await running.until(serving=2)
    pid = running.supervisor.workers[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await running.until(serving=1, waiting=1)
    await running.end()
    assert "0 1 started" not in running.said


async def test_it_gives_up_on_workers_that_cannot_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "FIRST_DELAY", 0.01)
    running = Running(tmp_path, f"if number == '0':\n    {BAD.replace(chr(10), '; ')}\n{GOOD}")
    with pytest.raises(WorkersFailed, match="worker 0 crashed 5 times in a row"):
        await asyncio.wait_for(running.task, 60)
    assert running.said.count("0 1 started") == 4
    # The other one was let go in peace.
    assert "1 0 told to stop" in running.said


async def test_who_does_not_end_is_made_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXIT_GRACE", 0.0)
    running = Running(tmp_path, STUBBORN, drain="200ms")
    await running.until(serving=2)
    with pytest.raises(WorkersFailed, match=r"workers \[0, 1\] exited with an error"):
        await running.end()


async def test_who_was_stopped_while_it_started_has_not_failed(tmp_path: Path) -> None:
    running = Running(tmp_path, SILENT)
    await running.until_said("0 0 started", "1 0 started")
    assert running.count("meshproxy_workers") == 2
    await running.end()


async def test_a_process_that_cannot_be_made(tmp_path: Path) -> None:
    running = Running(tmp_path, GOOD)
    running.supervisor._command = (str(tmp_path / "missing"),)
    with pytest.raises(OSError):
        await asyncio.wait_for(running.task, 60)


async def test_a_port_that_somebody_has(tmp_path: Path) -> None:
    with reserve("127.0.0.1", 0) as ours:
        port = ours.getsockname()[1]
        ours.listen()
        # The kernel would let it: another sidecar's workers share their port with everybody of our user.
        with pytest.raises(OSError):
            reserve("127.0.0.1", port)
    with reserve("127.0.0.1", port) as ours:
        assert ours.getsockname()[1] == port
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


async def test_readiness_is_what_the_workers_report(tmp_path: Path) -> None:
    script = GOOD.replace("report()\n", "report(('keys are known',) if number == '1' else ())\n")
    running = Running(tmp_path, script)
    await running.until(serving=2)
    conditions = running.supervisor.readiness()
    assert conditions["worker 0 is ready"]
    assert not conditions["worker 1 is ready"]
    assert {name for name, holds in conditions.items() if not holds} == {
        "worker 1 is ready",
        "worker 1: keys are known",
    }
    await running.end()


async def test_a_worker_that_stops_reporting_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(tmp_path, GOOD)
    await running.until(serving=2)
    monkeypatch.setattr(worker_process, "REPORT_TIMEOUT", -1.0)
    unmet = {name for name, holds in running.supervisor.readiness().items() if not holds}
    assert unmet == {f"worker {number}{what}" for number in (0, 1) for what in (" is ready", ": it reports")}
    await running.end()


async def test_configuration_says_whether_all_use_the_same(tmp_path: Path) -> None:
    script = GOOD.replace("report()\n", "report(fingerprint='f' + number * os.path.exists(sys.argv[2] + '/other'))\n")
    running = Running(tmp_path, script)
    await running.until(serving=2)
    page = json.loads(json.dumps(running.supervisor.configuration()))
    assert page["pid"] == os.getpid()
    assert (page["fingerprint"], page["same"]) == ("f", True)
    first = page["workers"][0]
    assert first == {
        "number": 0,
        "pid": running.supervisor.workers[0].pid,
        "state": "serving",
        "admin": "127.0.0.1:0",
        "ready": True,
        "fingerprint": "f",
        "notes": [],
    }
    (tmp_path / "other").touch()
    async with asyncio.timeout(60):
        while running.supervisor.configuration()["same"]:
            await asyncio.sleep(0.01)
    assert running.supervisor.configuration()["fingerprint"] is None
    await running.end()
    stopped = running.supervisor.configuration()
    assert (stopped["fingerprint"], stopped["same"]) == (None, False)


async def test_what_the_workers_note_is_said_once(tmp_path: Path) -> None:
    script = GOOD.replace('"unmet": unmet}', '"unmet": unmet, "notes": ["rejected: bad", f"of {number}"]}')
    running = Running(tmp_path, script)
    await running.until(serving=2)
    assert sorted(running.supervisor.notes()) == ["of 0", "of 1", "rejected: bad"]
    await running.end()


async def test_the_status_of_workers_that_do_not_answer_is_missed(tmp_path: Path) -> None:
    running = Running(tmp_path, GOOD)
    await running.until(serving=2)
    status: dict[str, Any] = await running.supervisor.status()  # the port of these workers is 0
    assert status["attention"] == ["2 of 2 workers did not tell their status: it is missing here"]
    assert [worker["number"] for worker in status["workers"]] == [0, 1]
    assert (status["state"], status["pid"]) == ("ready", os.getpid())
    assert await running.supervisor.scaling() is None  # rather than the load of some of them
    await running.end()


async def test_a_worker_that_hangs_holds_up_no_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ASK_SECONDS", 0.1)
    first = two_free_ports()
    with socket.create_server(("127.0.0.1", first)), socket.create_server(("127.0.0.1", first + 1)):
        hangs = GOOD.replace('"127.0.0.1:" + admin', f'"127.0.0.1:{first}"')
        running = Running(tmp_path, hangs)
        await running.until(serving=2)
        async with asyncio.timeout(4):  # a fetch has five seconds
            status: dict[str, Any] = await running.supervisor.status()
    assert status["attention"] == ["2 of 2 workers did not tell their status: it is missing here"]
    assert "worker 0 does not answer /status: not within 0.1 s" in caplog.text
    await running.end()


def two_free_ports() -> int:
    """The first of two adjacent ports below those that the kernel gives to connections (ip_local_port_range)."""
    for first in range(20_000 + os.getpid() % 10_000, 32_000, 2):
        try:
            with socket.create_server(("127.0.0.1", first)), socket.create_server(("127.0.0.1", first + 1)):
                return first
        except OSError:
            continue
    raise AssertionError("no two adjacent ports are free")


async def test_each_worker_has_its_own_admin_port(tmp_path: Path) -> None:
    first = two_free_ports()
    running = Running(tmp_path, GOOD, admin={"listen": "127.0.0.1:0", "firstWorkerPort": first})
    await running.until(serving=2)
    assert [each.slot.admin_port for each in running.supervisor.workers] == [first, first + 1]
    await running.end()


async def test_a_worker_port_in_use_is_reported_before_any_worker_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1] - 1
        running = Running(tmp_path, GOOD, admin={"listen": "127.0.0.1:0", "firstWorkerPort": first})
        with pytest.raises(OSError, match="in use"):
            await running.task
    assert running.said == []
