"""Several workers on one port: a real supervisor and real workers, seen from outside."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshproxy.devtools.child import ChildFailed
from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import LocalSidecar, document, local_replica
from meshproxy.telemetry import metric_table
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

CONNECTIONS = 40
"""One of two workers gets all of them once in 2^39 runs."""


def two_workers(tmp_path: Path) -> AbstractAsyncContextManager[LocalSidecar]:
    return local_replica(tmp_path / "mesh", mesh={"mtls": "permissive"}, sidecar={"workers": 2})


async def page(address: str, path: str) -> str:
    async with RestClient(address, None) as admin:
        return str((await admin.call("GET", path)).body)


async def totals(running: LocalSidecar, name: str) -> list[float]:
    """The sum of a metric's lines on the page of each worker."""
    workers = (await configuration(running))["workers"]
    return [total(await page(worker["admin"], "/metrics"), name) for worker in workers]


async def configuration(running: LocalSidecar) -> dict[str, Any]:
    async with RestClient(running.admin, None) as admin:
        body = (await admin.call("GET", "/config")).body
    return json.loads(body) if isinstance(body, str | bytes) else dict(body)


def total(text: str, name: str) -> float:
    """The sum of a metric's lines on a page."""
    lines = (line for line in text.splitlines() if line.startswith((name + "{", name + " ")))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def ask_on_new_connections(running: LocalSidecar, count: int) -> list[str]:
    """One request on each of `count` connections; the statuses."""

    async def one() -> str:
        async with RestClient(running.inbound, running.client) as client:
            return (await client.call("POST", "/v1/models/half_plus_two:predict", {"instances": [2.0]})).status

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def test_workers_share_the_traffic_and_drain_and_reload_as_one(tmp_path: Path) -> None:
    async with two_workers(tmp_path) as running:
        async with RestClient(running.admin, None) as admin:
            assert (await admin.call("GET", "/readyz")).status == "200"
        assert await ask_on_new_connections(running, CONNECTIONS) == ["200"] * CONNECTIONS
        shares = await totals(running, "meshproxy_requests_total")
        assert all(shares)
        assert sum(shares) == CONNECTIONS
        own = await page(running.admin, "/metrics")
        assert 'meshproxy_workers{state="serving"} 2\n' in own
        names = {metric.name for table in ("Process", "Supervisor") for metric in metric_table.TABLES[table]}
        assert set(re.findall(r"^# TYPE (\w+) ", own, re.MULTILINE)) == names

        before = await configuration(running)
        assert before["same"] is True
        pids = [worker["pid"] for worker in before["workers"]]
        assert running.child.pid not in pids

        # One crashes: the other one serves, a new one is started in its slot and counts from zero.
        os.kill(pids[0], signal.SIGKILL)

        async def has_successor() -> bool:
            now = await configuration(running)
            return now["workers"][0]["pid"] not in (None, pids[0]) and now["same"] is True

        await until(has_successor)
        after = await configuration(running)
        assert after["workers"][1]["pid"] == pids[1]
        assert after["fingerprint"] == before["fingerprint"]
        assert await ask_on_new_connections(running, CONNECTIONS) == ["200"] * CONNECTIONS
        assert sum(await totals(running, "meshproxy_requests_total")) == CONNECTIONS + shares[1]
        assert total(await page(running.admin, "/metrics"), "meshproxy_worker_restarts_total") == 1

        # A reload reaches both.
        extra = document("ModelRole", {"rules": [{"models": ["more"], "verbs": ["predict"]}]}, "extra")
        path = running.path
        path.write_text(yaml.safe_dump_all([*running.documents, extra]))
        running.child.signal(signal.SIGHUP)

        async def is_reloaded() -> bool:
            now = await configuration(running)
            return now["same"] is True and now["fingerprint"] != before["fingerprint"]

        await until(is_reloaded)

        # Documents that are rejected do not prevent a worker's restart.
        path.write_text("kind: Nothing\n")
        reloaded = await configuration(running)
        os.kill(pids[1], signal.SIGKILL)

        async def is_back() -> bool:
            now = await configuration(running)
            return now["workers"][1]["pid"] not in (None, pids[1]) and now["same"] is True

        await until(is_back)
        assert (await configuration(running))["fingerprint"] == reloaded["fingerprint"]

        async def is_out_of_sync() -> bool:
            return await totals(running, "meshproxy_config_in_sync") == [0, 0]

        await until(is_out_of_sync)
        assert (await configuration(running))["same"] is True

        # A worker is not drained by itself; the supervisor drains all.
        async with RestClient(after["workers"][0]["admin"], None) as worker:
            assert (await worker.call("POST", "/drain")).status == "404"

        async with RestClient(running.admin, None) as admin:
            assert (await admin.call("POST", "/drain")).status == "202"
        assert await asyncio.wait_for(running.child.wait(), 60) == 0


async def test_workers_do_not_outlive_their_supervisor(tmp_path: Path) -> None:
    async def end_it_hard() -> None:
        async with two_workers(tmp_path) as running:
            pids = [worker["pid"] for worker in (await configuration(running))["workers"]]
            running.child.signal(signal.SIGKILL)

            async def are_gone() -> bool:
                return not any(Path(f"/proc/{pid}/exe").exists() for pid in pids)

            await until(are_gone)

    with pytest.raises(ChildFailed, match="ended with -9"):
        await end_it_hard()
