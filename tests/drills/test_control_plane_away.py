"""Certificates that live for a minute or less, under load, with a control plane that comes and goes.

A drill because a certificate that is so short-lived may expire before the next on a machine that has much else to do.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from meshproxy.devtools.local_mesh import read_series
from tests.processes.calls import Load
from tests.processes.mesh import mesh
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

LIFETIME = "45s"
"""A third of it is for the control plane to start again, which takes seconds on a busy machine."""
LONG = "60s"
"""Of certificates that nobody renews until their last fifth."""
MARGIN = 12.0
"""Seconds: of the last fifth of such a certificate's life, as a day has 4.8 hours."""
PAUSE = 0.01
"""Seconds between two calls: without, they leave a busy machine no time to start a control plane in."""
TRYING = "no certificate from the control plane; trying again"
EXPIRY = "meshproxy_identity_cert_expiration_timestamp_seconds"


async def test_certificates_rotate_and_the_control_plane_may_be_away(tmp_path: Path) -> None:
    async with mesh(tmp_path, LIFETIME) as it:
        load = Load(it.application.outbound, None, rest=[True] * 2, grpc=[True] * 2, pause=PAUSE)
        await until(lambda: it.rotations() >= 1)
        await load.more(50)

        # Killed: what was issued stays in use, and the next renewal finds the one that is started again.
        await it.control.kill()
        failed = len(it.replica.said(TRYING))
        await until(lambda: len(it.replica.said(TRYING)) > failed)
        await load.more(50)
        await it.restart_control()
        rotations = it.rotations()
        await until(lambda: it.rotations() > rotations)
        await load.more(50)
        await load.stop()

        page = await it.replica.metrics()
        assert page['meshproxy_identity_issuances_total{result="ok"}'] >= 3
        assert page['meshproxy_identity_issuances_total{result="failed"}'] >= 1
        assert page[EXPIRY] > time.time()

        async def are_issued() -> bool:
            """By the one that was started again, to both: one of them may have been renewed just before the end of the
            other one."""
            issued = await read_series(str(it.control.listening["web"]), "/metrics")
            return issued.get('meshproxy_control_issuances_total{result="ok",reason=""}', 0.0) >= 2

        await until(are_issued)


async def test_away_for_the_rest_of_a_certificates_life_less_the_margin(tmp_path: Path) -> None:
    """Killed as soon as a certificate is issued, and back when it has `MARGIN` seconds left."""
    async with mesh(tmp_path, LONG) as it:
        load = Load(it.application.outbound, None, rest=[True] * 2, grpc=[True] * 2, pause=PAUSE)
        await until(lambda: it.rotations() >= 1)
        await it.control.kill()
        sidecars = (it.replica, it.application)
        # Whatever was issued has come by then.
        await until(lambda: all(each.said(TRYING) for each in sidecars))
        rotations = it.rotations()
        expires = min([(await each.metrics())[EXPIRY] for each in sidecars])
        away = time.time()
        await until(lambda: time.time() > expires - MARGIN)
        assert it.rotations() == rotations
        tries = [line for each in sidecars for line in each.said(TRYING)]
        assert await it.replica.total("meshproxy_identity_issuances_total", 'result="failed"') >= 1
        print(f"away for {time.time() - away:.1f} s, {expires - time.time():.1f} s left: {tries[-1]}")
        await it.restart_control()
        await until(lambda: it.rotations() > rotations)
        await load.more(50)
        await load.stop()
        print(f"{load.answered} calls, 0 failed; certificates were not renewed until {len(tries)} attempts had failed")
        assert "connect" in tries[-1]["problem"].lower()


async def test_workers_share_an_identity_that_their_supervisor_renews(tmp_path: Path) -> None:
    async with mesh(tmp_path, LIFETIME, workers=2) as it:
        load = Load(it.application.outbound, None, rest=[True] * 2, grpc=[True] * 2, pause=PAUSE)

        def rotated() -> Counter[int]:
            return Counter(line["worker"] for line in it.replica.said("certificate rotated"))

        await until(lambda: rotated().keys() == {0, 1})
        await load.more(50)
        await load.stop()
        workers = rotated()
        page = await it.replica.metrics()
        # One for both of them, each time; the last one may not have reached them when they were asked, before.
        issued = page['meshproxy_identity_issuances_total{result="ok"}']
        assert {issued - 1 - count for count in workers.values()} <= {0, 1}
