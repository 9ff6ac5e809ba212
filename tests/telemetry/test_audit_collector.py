"""The sink, and the writer before it, with a collector that is made up."""

from __future__ import annotations

import gzip
import json
import logging
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from meshproxy.audit.collected import collected
from meshproxy.audit.verify import Verifier
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.telemetry import audit_collector
from meshproxy.telemetry.audit_collector import AuditCollector
from meshproxy.telemetry.audit_writer import AuditWriter
from meshproxy.telemetry.otlp_settings import LogSettings, OwnFiles
from tests.audit.trails import KEY, PUBLIC, call_body, trail


class Collector:
    """Answers what it is told to, and keeps what it takes."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes, dict[str, str]]] = []
        """Instead of 200, the first one first."""
        self.keeps_when_it_fails = False
        self.kept: list[ExportLogsServiceRequest] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.url = ""

    @property
    def bodies(self) -> list[bytes]:
        return [
            record.body.string_value.encode()
            for request in self.kept
            for logs in request.resource_logs
            for scope in logs.scope_logs
            for record in scope.log_records
        ]

    @property
    def written(self) -> list[bytes]:
        """As the file exporter writes them."""
        return [json.dumps(MessageToDict(each), separators=(",", ":")).encode() + b"\n" for each in self.kept]


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Collector]:
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            found.connections += 1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers["content-encoding"] == "gzip":
                body = gzip.decompress(body)
            found.paths.append(self.path)
            found.headers.append({name.lower(): value for name, value in self.headers.items()})
            status, answer, headers = found.answers.pop(0) if found.answers else (200, b"", {})
            if status == 200 or found.keeps_when_it_fails:
                found.kept.append(ExportLogsServiceRequest.FromString(body))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    base = f"http://127.0.0.1:{server.server_port}" if tls is None else f"https://localhost:{server.server_port}"
    found.url = f"{base}/v1/logs"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with serving() as found:
        yield found


class Pauses(list[float]):
    """What was to be waited."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def sink(collector: Collector, **settings: object) -> tuple[AuditCollector, Pauses]:
    pauses = Pauses()
    made = LogSettings(collector.url, **settings)  # type: ignore[arg-type]
    return AuditCollector(made, pauses), pauses


@pytest.mark.parametrize("is_compressed", [False, True])
def test_lines_are_the_bodies_of_records(collector: Collector, is_compressed: bool) -> None:
    lines = trail(20)
    made, _ = sink(collector, is_compressed=is_compressed, headers=((b"x-key", b"secret"),))
    assert made.write(b"".join(lines)) == sum(map(len, lines))
    assert made.write(lines[0]) == len(lines[0])
    assert [body + b"\n" for body in collector.bodies] == [*lines, lines[0]]
    assert collector.paths == ["/v1/logs"] * 2
    assert collector.headers[0]["x-key"] == "secret"
    assert collector.headers[0]["content-type"] == "application/x-protobuf"
    made.close()
    assert collector.connections == 1


def test_no_request_is_larger_than_a_collector_takes(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_collector, "BATCH_BYTES", 3_000)
    lines = trail(20)
    made, _ = sink(collector)
    rest = b"".join(lines)
    while rest:
        rest = rest[made.write(rest) :]
    assert [body + b"\n" for body in collector.bodies] == list(lines)
    assert len(collector.kept) > 5
    made.close()


def test_what_may_go_well_the_next_time(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    made, pauses = sink(collector)
    collector.answers = [
        (503, b"busy", {}),
        (429, b"", {"retry-after": "7"}),
        (429, b"", {"retry-after": "99999"}),
        (503, b"", {"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}),
        (503, b"", {"retry-after": "soon"}),
        (503, b"", {"retry-after": f"{'9' * 20} Feb 31 00:00:00"}),
    ]
    with caplog.at_level(logging.WARNING):
        assert [made.write(trail(1)[0]) for _ in range(6)] == [0] * 6
    assert pauses == [0.5, 7.0, 30.0, 0.5, 0.5, 0.5]
    assert len([record for record in caplog.records if "does not take" in record.message]) == 3  # once for each problem
    assert made.write(trail(1)[0]) > 0
    made.close()


def test_a_collector_that_is_away() -> None:
    with serving() as collector:
        made, pauses = sink(collector)
    assert made.write(trail(1)[0]) == 0
    assert pauses == [0.5]


@pytest.mark.parametrize("name", ["a..b", "a" * 64 + ".example"])
def test_a_name_that_no_host_can_have(name: str) -> None:
    pauses = Pauses()
    made = AuditCollector(LogSettings(f"http://{name}:1/v1/logs"), pauses)
    assert (made.write(trail(1)[0]), pauses) == (0, [0.5])


def test_a_connection_that_was_closed_meanwhile(collector: Collector) -> None:
    made, pauses = sink(collector)
    collector.answers = [(200, b"", {"connection": "keep-alive"})]
    assert made.write(trail(1)[0])
    connection = made._connection
    assert connection is not None
    assert connection.sock is not None
    connection.sock.shutdown(2)
    assert made.write(trail(1)[0])
    assert (pauses, collector.connections) == ([], 2)
    made.close()


@pytest.mark.parametrize(
    ("status", "answer", "why"),
    [
        (400, b"", "answers 400"),
        (401, b"", "OTEL_EXPORTER_OTLP_LOGS_HEADERS"),
        (404, b"", "see that the URL"),
        (307, b"", "redirects are not followed"),
        (200, b"<html>", "not one of OTLP"),
        (204, b"", "answers 204"),
    ],
)
def test_what_will_not_go_well(collector: Collector, status: int, answer: bytes, why: str) -> None:
    made, _ = sink(collector)
    collector.answers = [(status, answer, {})]
    with pytest.raises(OSError, match=why):
        made.write(trail(1)[0])
    made.close()


def test_lines_that_are_rejected_are_counted_and_a_problem_until_others_are_taken(collector: Collector) -> None:
    partial = ExportLogsServiceResponse(
        partial_success=ExportLogsPartialSuccess(rejected_log_records=2, error_message="too old")
    )
    made, _ = sink(collector)
    writer = AuditWriter(made, "w@h")
    collector.answers = [(200, partial.SerializeToString(), {})]
    for number in range(3):
        writer.write(call_body(number))
    writer.write_waiting()
    assert (writer.dropped, writer.problem) == (2, "the output has rejected lines")
    writer.write_waiting()
    assert writer.problem == ""
    assert b'"kind":"dropped"' in collector.bodies[-1]
    made.close()


def test_the_chain_is_verified_from_what_the_collector_holds(collector: Collector) -> None:
    made, _ = sink(collector)
    writer = AuditWriter(made, "w@h", key=KEY)
    collector.answers = [(503, b"", {}), (200, b"", {}), (504, b"", {})]
    collector.keeps_when_it_fails = True  # the answer was lost, and lines are sent again
    for number in range(600):
        writer.write(call_body(number))
    writer.write_waiting(is_last=True)
    made.close()
    assert len(collector.bodies) > 602
    verifier = Verifier([PUBLIC])
    verifier.read("collector", collected(collector.written))
    verifier.finish()
    assert verifier.is_whole
    (chain,) = verifier.chains.values()
    assert chain.lines == 602


def test_authorities_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(OSError, match=r"ca\.pem cannot be loaded"):
        AuditCollector(LogSettings("https://a/v1/logs", certificate=str(tmp_path / "ca.pem")))


def test_a_collector_that_asks_for_our_certificate(tmp_path: Path) -> None:
    """The files are read for each connection: they may come late, and change."""
    authority = DevelopmentCA.create("dev.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(dns=["localhost"]).write(tmp_path, "collector"))
    context.load_verify_locations(cadata=authority.bundle_pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    lines = b"".join(trail(2))
    own = OwnFiles(tmp_path / "own.pem", tmp_path / "own-key.pem")
    with serving(context) as collector:
        made, pauses = sink(collector, certificate=str(authority.write(tmp_path)), own=own)
        assert made.write(lines) == 0
        assert len(pauses) == 1
        authority.issue(dns=["sidecar"]).write(tmp_path, "own")
        assert made.write(lines) == len(lines)
        made.close()
    assert collector.bodies == lines.splitlines()
