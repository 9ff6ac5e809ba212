"""Containers as processes: what the stand-in for a node promises of them. Only root can."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from meshproxy.devtools.node import sandbox
from meshproxy.devtools.node.network import ADDRESS, SERVICES, Machine, PodNetwork
from meshproxy.devtools.node.process import ContainerProcess
from meshproxy.devtools.node.services import ServicePort, rules
from meshproxy.devtools.node.spec import read_spec
from meshproxy.injection.drain_hook import drain_hook
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

USER = 65532
SPEC = read_spec(
    {"containers": [{"name": "a", "securityContext": {"runAsUser": USER, "capabilities": {"drop": ["ALL"]}}}]}
)
SERVICE = "10.0.0.9"
CURL = ("curl", "-s", "-m", "60", "-o", "/dev/null")


class Pods:
    """Pods of one container each, with a volume to read and one to write."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self.folder = folder
        self.read, self.written = folder / "read", folder / "written"
        self.read.mkdir()
        (self.read / "file").write_text("content")
        self.written.mkdir()
        self.written.chmod(0o777)
        self._started: list[ContainerProcess] = []

    async def start(self, network: PodNetwork, *command: str) -> ContainerProcess:
        scratch = self.folder / f"scratch-{len(self._started)}"
        scratch.mkdir()
        binds = [
            sandbox.Bind(self.read, "/etc/meshproxy-test/read", is_read_only=True),
            sandbox.Bind(self.written, "/var/run/meshproxy-test/written", is_read_only=False),
            sandbox.Bind(self.read, "/run/meshproxy-test/more", is_read_only=True),
            sandbox.Bind(self.read, "/meshproxy-test/most", is_read_only=True),
        ]
        closed = sandbox.closed_folders([Path(sys.base_prefix), Path(sys.prefix)])
        text = sandbox.script(binds, closed, scratch, sandbox.as_user(SPEC, SPEC.containers[0], command))
        environment = {"PATH": "/usr/bin:/bin"}
        process = await ContainerProcess.start(sandbox.first_process(network.path, text), environment, self.log)
        self._started.append(process)
        return process

    async def run(self, network: PodNetwork, *command: str) -> int:
        """Its exit status."""
        return await (await self.start(network, *command)).wait()

    @property
    def log(self) -> Path:
        return self.folder / "log"

    async def stop(self) -> None:
        for process in self._started:
            process.send(signal.SIGKILL)
            await process.wait()


@pytest.fixture
async def pods(tmp_path: Path) -> AsyncIterator[Pods]:
    with Machine().stand() as machine:
        pods = Pods(machine, tmp_path)
        yield pods
        await pods.stop()


async def test_files_and_users(pods: Pods) -> None:
    network = pods.machine.add_pod()
    script = (
        "id -u; cat /etc/meshproxy-test/read/file /run/meshproxy-test/more/file; echo x >/run/meshproxy-test/written/y"
    )
    assert await pods.run(network, "sh", "-c", f"{script}; exit 3") == 3
    assert pods.log.read_text() == f"{USER}\ncontentcontent"
    assert (pods.written / "y").read_text() == "x\n"
    assert await pods.run(network, "sh", "-c", "echo x >/etc/meshproxy-test/read/file") == 2
    assert await pods.run(network, sys.executable, "-c", "import meshproxy") == 0
    assert not Path("/etc/meshproxy-test").exists()
    assert not Path("/run/meshproxy-test").exists()
    assert not Path("/meshproxy-test").exists()
    # Whoever enters later sees what is there, and devices and processes.
    process = await pods.start(network, "sleep", "60")
    script = "cat /meshproxy-test/most/file /etc/meshproxy-test/read/file >/dev/null && cat /proc/1/cmdline"
    assert await process.run(["sh", "-c", f"{script} >/run/meshproxy-test/written/y"]) == 0
    assert (pods.written / "y").read_text() == "sleep\x0060\x00"


async def test_the_first_process_of_a_container(pods: Pods) -> None:
    network = pods.machine.add_pod()
    process = await pods.start(network, "sh", "-c", "sleep 60; exit 7")
    process.send(signal.SIGTERM)  # a signal that the first process does not handle does nothing
    assert await process.run(["sh", "-c", "test $(id -u) = 0 && test $(cat /proc/1/comm) = sh"]) == 0
    assert await process.run(["sleep", "60"], timeout=0.1) is None
    # As the hook of a model server does.
    hook = await process.run(["bash", "-c", drain_hook(0)["exec"]["command"][-1].splitlines()[-1]])
    assert hook in (0, -signal.SIGKILL)  # the first process may end, and this one with it, before it has ended itself
    assert await process.wait() == 7
    assert await process.run(["true"]) != 0

    process = await pods.start(network, "sleep", "60")
    process.send(signal.SIGKILL)
    assert await process.wait() == 137
    with pytest.raises(OSError, match="ended with 1 before it ran"):
        await pods.start(PodNetwork("nothing", ADDRESS), "true")


async def test_a_start_that_is_cancelled_leaves_nothing(pods: Pods) -> None:
    network = pods.machine.add_pod()
    command = sandbox.first_process(network.path, "sleep 60; echo >&0")
    start = asyncio.ensure_future(ContainerProcess.start(command, {"PATH": "/usr/bin:/bin"}, pods.log))

    def processes() -> str:
        listed = subprocess.run(["ip", "netns", "pids", network.name], capture_output=True, text=True, check=True)
        return listed.stdout

    await until(processes)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await until(lambda: not processes())


async def test_addresses_of_services(pods: Pods) -> None:
    """From the machine and from pods; one that has no endpoint refuses."""
    server, client = pods.machine.add_pod(), pods.machine.add_pod()
    await pods.start(server, sys.executable, "-m", "http.server", "8080")

    async def called(host: str) -> Sequence[int]:
        machine = await asyncio.to_thread(subprocess.run, [*CURL, f"http://{host}/"], check=False)
        return machine.returncode, await pods.run(client, *CURL, f"http://{host}/")

    async def is_there() -> bool:
        return await called(f"{server.address}:8080") == (0, 0)

    await until(is_there)
    for endpoints, expected in ((((server.address, 8080),), (0, 0)), ((), (7, 7))):
        pods.machine.translate(rules([ServicePort(SERVICE, 80, endpoints)], SERVICES))
        assert await called(SERVICE) == expected
