"""Whether other load generators measure the same: `wrk` for REST, `h2load` for gRPC, in plain text through Envoy.

Neither shows a client certificate, so here Envoy takes plain connections and checks the token only. The figure to
compare is the proxy's CPU per request: it must not depend on who asks.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from benchmarks.peers.peer import MODEL, PREDICT_PATH
from benchmarks.works.work import Failed, Figures, Load, Pace, Work, sound
from meshproxy.devtools.load.grpc import grpc_message
from meshproxy.devtools.load.messages import grpc_request, rest_body
from meshproxy.devtools.load.target import PREDICT

if TYPE_CHECKING:
    from benchmarks.context import Context, Upstream
    from benchmarks.peers.peer import Running
    from meshproxy.devtools.load.target import Target

_REQUESTS = {
    # "  12345 requests in 2.00s, 1.9MB read"; "requests: 12345 total, 12345 started, 12345 done, 12345 succeeded, ..."
    "wrk": re.compile(r"^\s*(\d+) requests in ([\d.]+)s", re.MULTILINE),
    "h2load": re.compile(r"^requests: .* (\d+) done", re.MULTILINE),
}
_BAD = {
    "wrk": re.compile(r"Non-2xx or 3xx responses: (\d+)"),
    "h2load": re.compile(r"(?:[1-9]\d*) (?:failed|errored|timeout|3xx|4xx|5xx)"),
}


@dataclass(frozen=True, slots=True)
class CrosscheckWork(Work):
    """The same closed loop from our generator and from the other tool, one after the other. The other tool's requests
    are all alike: compare with `--identical`."""

    headline = ("cpu_us", "other_cpu_us", "per_second", "other_per_second")
    is_plain: ClassVar[bool] = True

    @property
    def tool(self) -> str:
        return "wrk" if self.traffic.protocol == "rest" else "h2load"

    @property
    def question(self) -> str:
        return f"the same CPU per request from our load generator and from {self.tool}: {self.traffic}, no TLS"

    async def measure(self, context: Context, upstream: Upstream, running: Running, pace: Pace) -> Figures:
        program = shutil.which(self.tool)
        if program is None:
            raise Failed(f"{self.tool} is not installed")
        assert running.child is not None
        async with Load(context, running, self.traffic) as load:
            sound(await load.driver.run_closed(load.slots, pace.warm_up))
            before = running.child.cpu()
            run = sound(await load.driver.run_closed(load.slots, pace.duration))
            ours = running.child.cpu() - before
            target = load.target
        before = running.child.cpu()
        count, seconds = await self._run_tool([program, *self._arguments(context.folder, target, pace)], pace)
        theirs = running.child.cpu() - before
        return {
            "cpu_us": ours / run.done * 1e6,
            "other_cpu_us": theirs / count * 1e6,
            "per_second": run.achieved,
            "other_per_second": count / seconds,
        }

    def _arguments(self, folder: Path, target: Target, pace: Pace) -> list[str]:
        url = f"http://{target.host}:{target.port}"
        token = f"authorization: Bearer {target.token}"
        traffic = self.traffic
        if traffic.protocol == "rest":
            script = folder / "request.lua"
            body = rest_body(traffic.size).decode()
            script.write_text(
                f"wrk.method = 'POST'\nwrk.body = [[{body}]]\n"
                f"wrk.headers['content-type'] = 'application/json'\n"
                f"wrk.headers['authorization'] = 'Bearer {target.token}'\n"
            )
            connections = str(traffic.connections)
            return ["-t1", "-c", connections, "-d", f"{pace.duration:.0f}s", "-s", str(script), url + PREDICT_PATH]
        body_file = folder / "request.bin"
        body_file.write_bytes(grpc_message(grpc_request(MODEL, traffic.size)))
        headers = [part for line in (token, "content-type: application/grpc", "te: trailers") for part in ("-H", line)]
        shape = ["-t1", "-c", str(traffic.connections), "-m", str(traffic.streams), "-D", f"{pace.duration:.0f}"]
        return [*shape, "-d", str(body_file), *headers, url + PREDICT.decode()]

    async def _run_tool(self, command: list[str], pace: Pace) -> tuple[int, float]:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), pace.duration + 30)
        said = output.decode("utf-8", "replace")
        found = _REQUESTS[self.tool].search(said)
        if found is None or not int(found[1]) or _BAD[self.tool].search(said):
            raise Failed(f"{self.tool} failed:\n{said[-1_000:]}")
        return int(found[1]), float(found[2]) if self.tool == "wrk" else round(pace.duration)
