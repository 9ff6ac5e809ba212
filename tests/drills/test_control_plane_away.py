"""Certificates that live for half a minute, under load, with a control plane that comes and goes.

A drill because it needs a machine that does nothing else: on a busy one such a certificate expires before the next.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from meshproxy.devtools.local_mesh import read_series
from tests.processes.calls import Load
from tests.processes.test_control_plane import mesh
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(240)]

LIFETIME = "20s"


async def test_certificates_rotate_and_the_control_plane_may_be_away(tmp_path: Path) -> None:
    async with mesh(tmp_path, LIFETIME) as it:
        load = Load(it.application.outbound, None, rest=[True] * 2, grpc=[True] * 2)
        await until(lambda: it.rotations() >= 1, 90)
        await load.more(50)

        # Killed: what was issued stays in use, and the next renewal finds the one that is started again.
        await it.control.kill()
        failed = len(it.replica.said("no certificate from the control plane; trying again"))
        await until(lambda: len(it.replica.said("no certificate from the control plane; trying again")) > failed, 90)
        await load.more(50)
        await it.restart_control()
        rotations = it.rotations()
        await until(lambda: it.rotations() > rotations, 90)
        await load.more(50)
        await load.stop()

        page = await it.replica.metrics()
        assert page['meshproxy_identity_issuances_total{result="ok"}'] >= 3
        assert page['meshproxy_identity_issuances_total{result="failed"}'] >= 1
        assert page["meshproxy_identity_cert_expiration_timestamp_seconds"] > time.time()
        issued = await read_series(str(it.control.listening["web"]), "/metrics")
        assert issued['meshproxy_control_issuances_total{result="ok",reason=""}'] >= 2


async def test_workers_share_an_identity_that_their_supervisor_renews(tmp_path: Path) -> None:
    async with mesh(tmp_path, LIFETIME, workers=2) as it:
        load = Load(it.application.outbound, None, rest=[True] * 2, grpc=[True] * 2)
        await until(lambda: len(it.replica.said("certificate rotated")) >= 2, 90)
        assert {line["worker"] for line in it.replica.said("certificate rotated")} == {0, 1}
        await load.more(50)
        await load.stop()
        page = await it.replica.metrics()
        assert page['meshproxy_identity_issuances_total{result="ok"}'] == 2
