"""Many sidecars in one process, as a control plane sees them: real TLS connections, each with its own certificate, and
on each the two streams of a sidecar. Run by `mesh_of_sidecars`.

    python -m tests.figures.simulated_sidecars FOLDER CONTROL FIRST COUNT

The certificates are issued before, directly by the authority in FOLDER. Commands come on standard input, one a line,
and each is answered with a line of JSON. HTTP/2 is written by hand here, as little of it as is needed, so that the
sidecars leave the processor to the control plane.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import ssl
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import uvloop
from cryptography.hazmat.primitives.asymmetric import ec

from meshproxy.codec.grpc import frame
from meshproxy.control.authority import Authority, SigningRequest, private_pem
from meshproxy.control.store import FolderStore
from meshproxy.control_api import (
    REPORT,
    ROOTS,
    WATCH,
    MeshReport,
    ReportedCaller,
    ReportedCalls,
    ReportedTime,
    RootsReport,
    Scope,
    SidecarReport,
    leaf_name,
    roots_digest,
)
from meshproxy.sidecar.control_channel import CONNECT_SECONDS
from meshproxy.sidecar.reconnect import FIRST_RETRY, LAST_RETRY

LIFETIME = 86_400.0
AT_ONCE = 200
"""Connections that are opened together in the beginning."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
END_HEADERS, ACK = 4, 1
WINDOW = 64 << 20
WATCH_STREAM, ROOTS_STREAM, REPORT_STREAM = 1, 3, 5
CALLERS = 5
"""Of each sidecar: rows of its reports, with the buckets of calls whose latencies differ."""
BUCKETS = 12


class SmallSet(msgspec.Struct):
    """What is looked at of a `DocumentSet`."""

    version: str


def h2_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def head(path: bytes) -> bytes:
    """The block of a request, all literals without indexing (RFC 7541 section 6.2.2)."""
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", path),
        (b":authority", b"control"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
    return b"".join(b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in fields)


OPENING = (
    PREFACE
    + h2_frame(SETTINGS, 0, 0, b"\0\4" + WINDOW.to_bytes(4, "big"))
    + h2_frame(WINDOW_UPDATE, 0, 0, WINDOW.to_bytes(4, "big"))
    + h2_frame(HEADERS, END_HEADERS, WATCH_STREAM, head(WATCH))
    + h2_frame(HEADERS, END_HEADERS, ROOTS_STREAM, head(ROOTS))
    + h2_frame(HEADERS, END_HEADERS, REPORT_STREAM, head(REPORT))
)


def report_of(number: int, sequence: int, seconds: float) -> bytes:
    """What has come through one of them in so many seconds."""
    model = f"m{number // 100}"
    rows = tuple(
        ReportedCalls(
            "inbound",
            ReportedCaller(f"spiffe://figures.example/ns/callers/sa/c{(number // 10 + caller) % 500}"),
            "mtls",
            model,
            "3",
            "predict",
            codes={"200": 90, "OK": 10},
            allowed={model: 100},
            attempts=100,
            total={40 + bucket: 8 for bucket in range(BUCKETS)},
            upstream={38 + bucket: 8 for bucket in range(BUCKETS)},
            proxy={10: 60, 11: 40},
        )
        for caller in range(CALLERS)
    )
    times = {model: ReportedTime(100 * CALLERS, 2.0, 0.25, {24: 300, 26: 200})}
    name = f"x{number}"
    return msgspec.json.encode(MeshReport(name, "run", sequence, seconds, host=name, calls=rows, times=times))


class Mesh:
    """All of them.

    Attributes:
        arrived: when each version arrived, by the clock of all processes (CLOCK_MONOTONIC).
    """

    def __init__(self, folder: Path, control: str, first: int, count: int) -> None:
        host, _, port = control.rpartition(":")
        self.control = host, int(port)
        authority = FolderStore(folder).find_authority()
        assert authority is not None
        self.arrived: dict[str, list[float]] = {}
        self.connections = 0
        self.failures = 0
        self.sidecars = [Sidecar(self, authority, number) for number in range(first, first + count)]

    async def report(self, every: float) -> None:
        """Each reports so often, one after the other, until cancelled."""
        loop = asyncio.get_running_loop()
        begun, sent = loop.time(), 0
        while True:
            due = int((loop.time() - begun) / every * len(self.sidecars))
            for number in range(sent, due):
                self.sidecars[number % len(self.sidecars)].report_calls(every)
            sent = due
            await asyncio.sleep(0.02)

    async def start(self) -> None:
        turn = asyncio.Semaphore(AT_ONCE)

        async def connect(sidecar: Sidecar) -> None:
            async with turn:
                await sidecar.connect()

        await asyncio.gather(*(connect(sidecar) for sidecar in self.sidecars))


class Connection(asyncio.Protocol):
    """One connection of a sidecar, or an attempt at one. What was given up says nothing any more."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._sidecar.made(self, transport)  # type: ignore[arg-type]

    def connection_lost(self, error: Exception | None) -> None:
        self._sidecar.lost(self)

    def data_received(self, data: bytes) -> None:
        self._sidecar.data_received(data)


class Sidecar:
    """One of them: connects again with the back-off of a real one when it loses the control plane."""

    def __init__(self, mesh: Mesh, authority: Authority, number: int) -> None:
        self._mesh = mesh
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._retry = FIRST_RETRY
        self._transport: asyncio.Transport
        self._received = b""
        self._messages = {WATCH_STREAM: b"", ROOTS_STREAM: b"", REPORT_STREAM: b""}
        self._sequence = 0
        self.version = ""
        self._connection: Connection | None = None
        """The one that is open, or is tried."""
        self._is_open = False
        key = ec.generate_private_key(ec.SECP256R1())
        now = time.time()
        spiffe_id = f"spiffe://{authority.trust_domain}/ns/models/sa/m{number // 100}"
        issued = authority.issue(SigningRequest(key.public_key(), ()), spiffe_id, now, LIFETIME)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.load_verify_locations(cadata=authority.bundle_pem.decode())
        self._context.set_alpn_protocols(["h2"])
        with tempfile.NamedTemporaryFile() as file:
            file.write(issued.certificate_pem + private_pem(key))
            file.flush()
            self._context.load_cert_chain(file.name)
        leaf = leaf_name(ssl.PEM_cert_to_DER_cert(issued.certificate_pem.decode()), issued.not_after)
        self._roots = RootsReport(f"x{number}", leaf, roots_digest(authority.bundle_pem), "0.1.0")

    async def connect(self) -> None:
        """One attempt."""
        self._connection = connection = Connection(self)
        host, port = self._mesh.control
        number = self._number + 256
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._loop.create_connection(
                    lambda: connection,
                    host,
                    port,
                    ssl=self._context,
                    server_hostname="",
                    local_addr=(f"127.1.{number // 256}.{number % 256}", 0),  # each is a host of its own
                )
        except (OSError, TimeoutError, ssl.SSLError):
            self._mesh.failures += 1
            if self._is_open:  # the time was over in the moment in which it had come about
                self._transport.abort()
            self.lost(connection)

    def lost(self, connection: Connection) -> None:
        """The connection is no more, or did not come about: try again later, once, whoever has noticed."""
        if connection is not self._connection:
            return
        self._connection = None
        if self._is_open:
            self._mesh.connections -= 1
            self._is_open = False
            self._retry = FIRST_RETRY
        delay = self._retry * random.uniform(0.5, 1.0)
        self._retry = min(2 * self._retry, LAST_RETRY)
        self._loop.call_later(delay, lambda: self._loop.create_task(self.connect()))

    def made(self, connection: Connection, transport: asyncio.Transport) -> None:
        """It is open."""
        if connection is not self._connection:
            transport.abort()
            return
        self._transport = transport
        self._received = b""
        self._messages = {WATCH_STREAM: b"", ROOTS_STREAM: b"", REPORT_STREAM: b""}
        self._mesh.connections += 1
        self._is_open = True
        roots = h2_frame(DATA, 0, ROOTS_STREAM, frame(msgspec.json.encode(self._roots)))
        self._transport.write(OPENING + self._report() + roots)

    def _report(self) -> bytes:
        name = f"x{self._number}"
        scope = Scope(f"m{self._number // 100}")  # a hundred replicas each
        report = SidecarReport(name, "0.1.0", self.version, host=name, scope=scope)
        return h2_frame(DATA, 0, WATCH_STREAM, frame(msgspec.json.encode(report)))

    def report_calls(self, seconds: float) -> None:
        """Say what has come through since the last time."""
        if not self._is_open:
            return
        self._sequence += 1
        report = report_of(self._number, self._sequence, seconds)
        self._transport.write(h2_frame(DATA, 0, REPORT_STREAM, frame(report)))

    def data_received(self, data: bytes) -> None:
        data = self._received + data
        while len(data) >= 9 and len(data) >= 9 + (size := int.from_bytes(data[:3], "big")):
            self._frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size])
            data = data[9 + size :]
        self._received = data

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (SETTINGS, PING) and not flags & ACK:
            self._transport.write(h2_frame(kind, ACK, 0, payload if kind == PING else b""))
        elif kind == DATA and payload:
            credit = len(payload).to_bytes(4, "big")
            self._transport.write(h2_frame(WINDOW_UPDATE, 0, 0, credit) + h2_frame(WINDOW_UPDATE, 0, stream, credit))
            message = self._messages[stream] + payload
            if stream == REPORT_STREAM:
                message = b""  # receipts
            if len(message) >= 5 and len(message) == 5 + int.from_bytes(message[1:5], "big"):
                if stream == WATCH_STREAM:
                    self._take(message[5:])
                message = b""
            self._messages[stream] = message

    def _take(self, message: bytes) -> None:
        self.version = msgspec.json.decode(message, type=SmallSet).version
        self._mesh.arrived.setdefault(self.version, []).append(time.monotonic())
        self._transport.write(self._report())


async def main(folder: str, control: str, first: str, count: str) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    mesh = Mesh(Path(folder), control, int(first), int(count))
    loop = asyncio.get_running_loop()
    print(json.dumps({"event": "ready"}), flush=True)
    reporting: asyncio.Task[None] | None = None
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = line.strip()
        if command == "start":
            await mesh.start()
        if command.startswith("report "):
            reporting = loop.create_task(mesh.report(float(command.split()[1])))
        if command == "quiet" and reporting is not None:
            reporting.cancel()
        versions = {version: len(times) for version, times in mesh.arrived.items()}
        answer: dict[str, object] = {"connections": mesh.connections, "failures": mesh.failures, "versions": versions}
        if command == "times":
            answer = {"times": [time for times in mesh.arrived.values() for time in times]}
        if command == "forget":
            mesh.arrived.clear()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
