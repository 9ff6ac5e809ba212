"""An OpenTelemetry Collector as a process (`collector/main.go`): OTLP over HTTP in, spans as protobuf in a file and log
records as JSON in another one out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData

from tests.processes.waiting import until

CONFIGURATION = """
receivers:
  otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{port}"}}}}}}
processors:
  refuse: {refuse}
exporters:
  file: {{path: "{file}", format: proto, flush_interval: 20ms}}
  file/logs: {{path: "{logs}", flush_interval: 20ms}}
service:
  telemetry: {{metrics: {{level: none}}, logs: {{encoding: json}}}}
  pipelines:
    traces: {{receivers: [otlp], processors: [refuse], exporters: [file]}}
    logs: {{receivers: [otlp], exporters: [file/logs]}}
"""


def program() -> str:
    """What `make conformance` has built."""
    return str(Path(os.environ["COLLECTOR_BIN"]) / "collector")


class OtelCollector:
    """A collector that runs.

    Attributes:
        url: where it takes spans and log records.
        logs: the file with the log records.
    """

    def __init__(self, process: asyncio.subprocess.Process, file: Path, logs: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.process = process
        self.logs = logs
        self._file = file

    def traces(self) -> list[TracesData]:
        """Each export that it took, as it passed it on."""
        data, found = self._file.read_bytes(), []
        while len(data) >= 4:
            size = int.from_bytes(data[:4], "big")
            if len(data) < 4 + size:
                break  # it is being written
            found.append(TracesData.FromString(data[4 : 4 + size]))
            data = data[4 + size :]
        return found

    def spans(self) -> list[Span]:
        """All that it took."""
        return [
            span
            for traces in self.traces()
            for resource in traces.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    async def until_spans(self, count: int) -> list[Span]:
        """Wait for so many spans."""
        await until(lambda: len(self.spans()) >= count)
        return self.spans()


@asynccontextmanager
async def otel_collector(folder: Path, port: int = 0, **refuse: object) -> AsyncIterator[OtelCollector]:
    """Run one.

    Args:
        port: 0: any that is free.
        refuse: what its processor does first (`Refuse` in `collector/main.go`): `times`, `code`, `retry_after`,
            `delay`.
    """
    file, logs, configuration = folder / "spans.bin", folder / "logs.jsonl", folder / "collector.yaml"
    configuration.write_text(CONFIGURATION.format(port=port, file=file, logs=logs, refuse=json.dumps(refuse)))
    process = await asyncio.create_subprocess_exec(
        program(), "--config", str(configuration), stderr=asyncio.subprocess.PIPE
    )
    log: list[str] = []
    reader = None
    try:
        async with asyncio.timeout(60):
            port = await _started(process, log)
        reader = asyncio.ensure_future(_drain(process))
        yield OtelCollector(process, file, logs, port)
    except TimeoutError:
        raise AssertionError("\n".join(["the collector did not start; its log:", *log])) from None
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        if reader is not None:
            await reader
        await process.wait()


async def _started(process: asyncio.subprocess.Process, log: list[str]) -> int:
    """Its port, once it is ready."""
    assert process.stderr is not None
    port = 0
    while line := await process.stderr.readline():
        log.append(line.decode())
        said = json.loads(line) if line.startswith(b"{") else {}
        if said.get("msg") == "Starting HTTP server":
            port = int(said["endpoint"].rpartition(":")[2])
        if said.get("msg", "").startswith("Everything is ready"):
            return port
    raise AssertionError("\n".join(["the collector has ended; its log:", *log]))


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    while await process.stderr.readline():
        pass
