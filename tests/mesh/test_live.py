"""`meshproxy tap`, `stat` and `top` on real sidecars under load."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import socket
import struct
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import LocalSidecar, local_mesh, local_replica
from meshproxy.sidecar.live_pages import STALL_SECONDS
from tests.processes.calls import PATH, Load
from tests.processes.waiting import PATIENCE, until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

COMMAND = (sys.executable, "-c", "from meshproxy.cli.main import main; main()")


async def start(sidecar: LocalSidecar, command: str, *options: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    arguments = (*COMMAND, command, "--admin", sidecar.admin, *options)
    return await asyncio.create_subprocess_exec(*arguments, stdout=pipe, stderr=pipe)


async def run(sidecar: LocalSidecar, command: str, *options: str) -> list[dict[str, Any]]:
    """The lines that it has printed."""
    child = await start(sidecar, command, *options)
    output, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    return [json.loads(line) for line in output.splitlines()]


async def readers(sidecar: LocalSidecar) -> float:
    """Of live pages, of all workers."""
    async with RestClient(sidecar.admin, None) as client:
        body = (await client.call("GET", "/config")).body
    pages = [worker["admin"] for worker in body.get("workers", [])] or [sidecar.admin]
    found = 0.0
    for address in pages:
        async with RestClient(address, None) as client:
            page = str((await client.call("GET", "/metrics")).body)
        found += sum(
            float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith("meshproxy_live_readers{")
        )
    return found


async def test_what_goes_through_all_workers_of_a_sidecar_is_seen(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.replica(sidecar={"workers": 2})
        sidecar = replica.sidecar
        assert sidecar is not None
        load = Load(sidecar.inbound, sidecar.client, rest=[True, False], grpc=[True], pause=0.005)
        await load.more(3)
        calls, counts, nobody = await asyncio.gather(
            run(sidecar, "tap", "-n", "20", "--model", "half*", "--outcome", "ok", "--verb", "predict"),
            run(sidecar, "stat", "-t", "3s", "--by", "model", "--by", "protocol", "--by", "caller"),
            run(sidecar, "stat", "-t", "1s", "--outcome", "denied"),
        )
        assert len(calls) == 20
        assert {call["model"] for call in calls} == {"half_plus_two"}
        assert {call["peer_spiffe_id"] for call in calls} == {"spiffe://local.example/ns/tests/sa/client"}
        (found,) = counts
        assert {(group["protocol"], group["success"]) for group in found["groups"]} == {("REST", 1.0), ("gRPC", 1.0)}
        assert all(0 < group["latencySeconds"]["p50"] <= group["latencySeconds"]["p99"] for group in found["groups"])
        assert {group["caller"] for group in found["groups"]} == {"spiffe://local.example/ns/tests/sa/client"}
        assert nobody[0]["groups"] == []

        # Denied calls, until SIGINT.
        tap = await start(sidecar, "tap", "--outcome", "denied")
        assert tap.stdout is not None
        assert tap.stderr is not None
        async with RestClient(sidecar.inbound, mesh.certificate("pricing", "quoter")) as stranger:

            async def is_seen() -> bool:
                assert (await stranger.call("POST", PATH, {"instances": [1.0]})).status == "403"
                return await readers(sidecar) == 2

            await until(is_seen)
            assert (await stranger.call("POST", PATH, {"instances": [1.0]})).status == "403"
        line = json.loads(await asyncio.wait_for(tap.stdout.readline(), 60))
        assert (line["refusal"], line["response_code"]) == ("permission-denied", 403)
        tap.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(tap.wait(), 60) == 130
        assert (await tap.stderr.read()).decode().endswith(" shown\n")

        async def are_gone() -> bool:
            return await readers(sidecar) == 0

        await until(are_gone)
        await load.stop()


async def test_a_reader_that_stalls_holds_neither_traffic_nor_memory(tmp_path: Path) -> None:
    async with local_replica(tmp_path / "mesh") as sidecar:
        load = Load(sidecar.inbound, sidecar.client, rest=[True] * 4, grpc=[True] * 8)
        host, _, port = sidecar.admin.rpartition(":")
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            reader.connect((host, int(port)))
            reader.sendall(b"GET /tap?rate=1000 HTTP/1.1\r\nhost: localhost\r\n\r\n")
            began = time.monotonic()
            await load.more(600)  # 700 KB of lines, of which a third has no place to wait
            reader.settimeout(PATIENCE)
            page, unread, reason = b"", 0, "the client has left"
            try:
                while b'{"tap":{' not in page or not page.endswith(b"}\n\r\n"):
                    page += await asyncio.to_thread(reader.recv, 65_536)
                    if (told := last_counts(page)) is not None and told["unread"]:
                        unread = told["unread"]
                        break
                assert unread > 0
            except ConnectionResetError:  # by a machine that is too busy to answer so many in time
                assert time.monotonic() - began >= STALL_SECONDS
                reason = f"it was not read for {STALL_SECONDS:g} s"
            print(f"{unread} of {load.answered} calls were not shown: {reason}")
            assert len(page) < 1_000_000
        await load.more(50)
        await load.stop()

        async def is_counted() -> bool:
            dropped = await sidecar.total("meshproxy_tap_dropped_total", 'reason="reader"')
            return dropped >= unread and await readers(sidecar) == 0

        await until(is_counted)
        await until(lambda: sidecar.said("live page closed"))
        (closed,) = sidecar.said("live page closed")
        assert closed["reason"] == reason
        assert closed["shown"] <= 1_000


def last_counts(page: bytes) -> dict[str, int] | None:
    """What the reader was told last of what it did not see."""
    for line in reversed(page.splitlines()):
        if line.startswith(b'{"tap":') and line.endswith(b"}}"):
            found: dict[str, int] = json.loads(line)["tap"]
            return found
    return None


async def test_top_on_a_terminal(tmp_path: Path) -> None:
    async with local_replica(tmp_path / "mesh") as sidecar:
        load = Load(sidecar.inbound, sidecar.client, rest=[True], grpc=[True], pause=0.01)
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        top = await asyncio.create_subprocess_exec(
            *COMMAND, "top", "--admin", sidecar.admin, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        os.set_blocking(ours, False)
        screen = b""

        def is_shown() -> bool:
            nonlocal screen
            try:
                screen += os.read(ours, 65_536)
            except BlockingIOError:
                pass
            return b"half_plus_two" in screen and b"100%" in screen

        await until(is_shown)
        os.write(ours, b"q")
        assert await asyncio.wait_for(top.wait(), 60) == 0
        os.close(ours)
        assert b"sorted by rps (s: next, q: end)" in screen
        await load.stop()
