"""Whether the drills are what `DRILLS_LANE` says: with the express lane open, or with every request on the ordinary
way."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.devtools.local_mesh import local_replica
from tests.processes.calls import Load

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]


async def test_requests_ride_if_they_may(tmp_path: Path, lane: bool) -> None:
    async with local_replica(tmp_path / "mesh") as running:
        load = Load(running.inbound, running.client, rest=[True], grpc=[True])
        await load.more(200)
        await load.stop()
        carried = await running.total("meshproxy_express_requests_total", 'result="carried"')
        print(f"{carried:.0f} of {load.answered} requests took the express lane")
        assert (carried > 0) is lane
