"""The command against a server that runs in a thread: what it prints, and with which exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import click
import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.bench import _Duration, command


class Handler(BaseHTTPRequestHandler):
    """Answers predict requests for `m`; refuses others as a sidecar would."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        is_good = self.path == "/v1/models/m:predict"
        self.send_response(200 if is_good else 403)
        if not is_good:
            self.send_header("x-meshproxy-refusal", "permission-denied")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["--duration", "150ms", "--connections", "2", *arguments])


def test_a_closed_loop_prints_both_sides_and_the_hop(url: str) -> None:
    result = bench("--target", url, "--around", url, "--model", "m", "--closed")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "/v1/models/m:predict, 30 bytes, closed loop, 2 connections, 3 rounds"
    assert [line.split()[0] for line in lines[3:6]] == ["through", "around", "the"]
    assert "the load generator used" in lines[-1]


def test_programs_get_json(url: str) -> None:
    result = bench("--target", url, "--model", "m", "--closed", "-o", "json")
    document = json.loads(result.output)
    assert document["faults"] == []
    assert document["sides"]["through"]["requests"] > 0
    assert document["sides"]["through"]["percentiles"]["50"] > 0
    assert "hop" not in document


def test_a_refusal_is_named_and_no_percentiles_are_printed(url: str) -> None:
    result = bench("--target", url, "--model", "other", "--rate", "100", "--rounds", "1")
    assert result.exit_code == 1
    assert "requests failed: status 403, refused by meshproxy: permission-denied" in result.output
    assert "p50" not in result.output


def test_a_request_of_ones_own_is_sent(url: str, tmp_path: Path) -> None:
    body = tmp_path / "request.json"
    body.write_text('{"instances": []}')
    result = bench("--target", url, "--model", "m", "--closed", "--body", str(body))
    assert "17 bytes" in result.output


def test_nobody_there_is_one_line() -> None:
    result = bench("--target", "http://127.0.0.1:1", "--model", "m")
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "Error:" in result.output


def test_a_target_that_is_no_url_is_a_mistake_of_the_caller() -> None:
    result = bench("--target", "127.0.0.1:18500", "--model", "m")
    assert result.exit_code == 2
    assert "is not a URL of the form https://host:port" in result.output


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30.0), ("500ms", 0.5), ("2m", 120.0), ("1h", 3600.0), ("1.5", 1.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert _Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-3s", "0s", "3 weeks"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a duration"):
        _Duration().convert(text, None, None)
