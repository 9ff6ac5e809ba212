"""The clock of a sidecar's host jumps by five minutes, under load, and back: it sees the time of libfaketime."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.devtools.local_mesh import local_mesh
from tests.processes.calls import Load
from tests.processes.mesh import Mesh
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

LIBRARIES = list(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
LIFETIME = "7m"
"""A certificate is due for renewal after four minutes and some: at once, when the clock jumps by five."""
JUMP = 300.0
WARNING = "the clocks of this host and of the control plane differ: set them"
OFFSET = "meshproxy_identity_clock_offset_seconds"


class Clock:
    """What time it is for a process: off by some seconds, which may change at any time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)
        (library,) = LIBRARIES
        faked = (f"LD_PRELOAD={library}", "FAKETIME_DONT_FAKE_MONOTONIC=1", "FAKETIME_CACHE_DURATION=1")
        self.prefix = ("env", *faked, f"FAKETIME_TIMESTAMP_FILE={file}")

    def set(self, seconds: float) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+g}\n")
        new.replace(self._file)


async def test_a_clock_jumps(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as local:
        clock = Clock(local.directory / "clock")
        it = await Mesh.start(local, LIFETIME)
        await it.start_sidecars(prefix=clock.prefix)
        load = Load(it.application.outbound, None, rest=[True, False], grpc=[True, False])
        await load.more(50)

        def rotations() -> int:
            return len(it.replica.said("certificate rotated"))

        for seconds in (JUMP, -JUMP):
            before = rotations()
            clock.set(seconds)
            if seconds > 0:
                # It looks at the clock once a minute.
                await until(lambda before=before: rotations() > before)
                warned = it.replica.said(WARNING)
                offset = (await it.replica.metrics())[OFFSET]
                print(f"{seconds:+g} s: {warned[-1]['ahead_seconds']} in the log, {OFFSET} {offset:.0f}")
                assert abs(offset - seconds) < 30
            await load.more(200)
        await load.stop()
        print(f"{load.answered} calls, 0 failed, while the clock of a replica jumped by {JUMP:g} s and back")
