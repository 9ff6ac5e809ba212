"""What a control plane has of a cluster; tests/control/test_app.py runs it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from meshproxy.config.values import Address
from meshproxy.control import cluster_parts
from meshproxy.control.plane import SIGNS_ON
from meshproxy.control.settings import Settings
from meshproxy.control.store import StoreError
from meshproxy.telemetry.control_metrics import ControlMetrics
from tests.control.fake_api_server import FakeApiServer

FREE = Address("127.0.0.1", 0)


def settings(folder: Path, kubeconfig: Path) -> Settings:
    identity = "spiffe://m.example/ns/meshproxy/sa/control"
    return Settings(folder, "m.example", identity, listen=FREE, web=FREE, kubeconfig=kubeconfig)


async def test_the_cluster_that_a_file_names(fake: FakeApiServer, tmp_path: Path) -> None:
    chosen = settings(tmp_path / "control", fake.write_kubeconfig(tmp_path, "models"))
    client = cluster_parts.connect(chosen)
    assert client.namespace == "models"
    objects = cluster_parts.shared_objects(client, chosen)
    assert objects.namespace == "models"
    leaves, presence, tokens = cluster_parts.shared_records(objects, chosen, "authority")
    assert await asyncio.to_thread(leaves.valid, time.time()) == []
    assert await asyncio.to_thread(tokens.waiting_tokens, time.time()) == []
    assert presence.signs_until == SIGNS_ON, "nothing was said yet"
    objects.close()
    await client.close()


async def test_each_process_has_a_name_of_its_own_in_the_election(fake: FakeApiServer, tmp_path: Path) -> None:
    client = cluster_parts.connect(settings(tmp_path / "control", fake.write_kubeconfig(tmp_path, "models")))
    metrics = ControlMetrics()
    first, second = cluster_parts.elect(client, metrics), cluster_parts.elect(client, metrics)
    assert first._candidate.identity != second._candidate.identity
    assert not first.is_leader()
    await client.close()


def test_a_file_that_names_no_cluster(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("{}")
    with pytest.raises(StoreError, match="the cluster cannot be used: "):
        cluster_parts.connect(settings(tmp_path, tmp_path / "config"))
