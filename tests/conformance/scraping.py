"""A real Prometheus as a process, and what it has stored."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.processes.waiting import PATIENCE, until

REPOSITORY = Path(__file__).parents[2]
NEWEST = Path(os.environ.get("PROMETHEUS_BIN", ""))
"""The folder of the release that tests/conformance/prometheus/go.mod names, as `make conformance` says."""
DEBIAN = REPOSITORY / ".cache" / "prometheus" / "usr" / "bin"
"""That of the distribution's release; not on every system."""
RELEASES = {"newest": NEWEST, **({"debian": DEBIAN} if shutil.which("apt-get") else {})}

TEXT = "text/plain; version=0.0.4"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

Series = tuple[str, frozenset[tuple[str, str]]]
"""Name and labels."""

OF_A_SCRAPE = re.compile("up|scrape_.*")
"""What Prometheus adds to each target."""


class Prometheus:
    """A running server, asked over its HTTP API (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer. Raises AssertionError with the message of an error."""
        async with self._session.get(f"/api/v1/{path}", params=parameters) as response:
            answer = await response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def stored(self, job: str) -> dict[Series, float]:
        """The newest value of every series of a job with one target, without the labels of the target."""
        found = {}
        for sample in (await self.ask("query", query=f'{{job="{job}"}}'))["result"]:
            labels = {name: value for name, value in sample["metric"].items() if name not in ("job", "instance")}
            name = labels.pop("__name__")
            if not OF_A_SCRAPE.fullmatch(name):
                found[name, frozenset(labels.items())] = float(sample["value"][1])
        return found

    async def health(self, job: str) -> tuple[str, str]:
        """`up` or `down` of the only target of a job, and the last error of a scrape."""
        targets = [each for each in (await self.ask("targets"))["activeTargets"] if each["labels"]["job"] == job]
        assert len(targets) == 1
        return targets[0]["health"], targets[0]["lastError"]

    async def scraped_after(self, job: str, seconds: float = PATIENCE) -> None:
        """Wait for a scrape that begins after now. Raises TimeoutError."""

        async def scraped() -> float:
            (sample,) = (await self.ask("query", query=f'timestamp(up{{job="{job}"}})'))["result"] or [
                {"value": [0, 0]}
            ]
            return float(sample["value"][1])

        now = await scraped()
        # A sample has the time at which its scrape began: the second of two that are newer begins after now.
        for _ in range(2):
            seen = now

            async def is_newer() -> bool:
                nonlocal now
                now = await scraped()
                return now > seen  # noqa: B023 - awaited within the turn

            await until(is_newer, seconds)


@asynccontextmanager
async def running_prometheus(
    release: str, folder: Path, jobs: Mapping[str, dict[str, Any]], *options: str
) -> AsyncIterator[Prometheus]:
    """A server that scrapes every two seconds.

    Args:
        release: a key of `RELEASES`.
        jobs: `scrape_configs` by their names.
        options: more of its command line.
    """
    folder.mkdir()
    configuration = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s"},
        "scrape_configs": [{"job_name": name, **job} for name, job in jobs.items()],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    process = await asyncio.create_subprocess_exec(
        RELEASES[release] / "prometheus",
        *("--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0", *options),
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    log: list[str] = []
    address = ""
    try:
        async with asyncio.timeout(60):
            while not address:
                line = (await process.stderr.readline()).decode()
                assert line, "".join(log)
                log.append(line)
                if found := re.search(r'msg="Listening on".* address=(\S+)', line):
                    address = found[1]
        reading = asyncio.ensure_future(_read_on(process.stderr, log))
        async with aiohttp.ClientSession(f"http://{address}") as session:

            async def is_ready() -> bool:
                async with session.get("/-/ready") as response:
                    return response.status == 200

            await until(is_ready)
            yield Prometheus(session)
        process.terminate()
        await reading
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
    assert process.returncode == 0, "".join(log)


async def _read_on(stream: asyncio.StreamReader, log: list[str]) -> None:
    while line := await stream.readline():
        log.append(line.decode())


async def fetch(address: str, accept: str) -> str:
    """The page of metrics of a process, in the format that is asked for."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{address}/metrics", headers={"accept": accept}) as response,
    ):
        assert response.status == 200
        assert response.content_type == accept.partition(";")[0]
        return await response.text()


def samples(page: str, accept: str) -> dict[Series, float]:
    """The series of a page and their values, as the official client of Python reads them. To Prometheus, an empty label
    is none."""
    parse = parse_openmetrics if accept == OPENMETRICS else parse_text
    found: dict[Series, float] = {}
    for family in parse(page):
        for sample in family.samples:
            key = sample.name, frozenset((label, value) for label, value in sample.labels.items() if value)
            assert key not in found, key
            found[key] = sample.value
    return found


async def promtool(release: str, *arguments: str | Path, stdin: str | None = None) -> tuple[int | None, str]:
    """The exit status of a promtool, and what it says."""
    process = await asyncio.create_subprocess_exec(
        RELEASES[release] / "promtool",
        *arguments,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate(stdin.encode() if stdin is not None else None)
    return process.returncode, output.decode()
