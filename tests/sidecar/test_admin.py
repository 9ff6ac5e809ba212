"""The admin port without a port: requests in, answers out."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from meshproxy.codec.events import Headers, Rejected, RequestHead
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.sidecar.admin import ANSWER_SECONDS, Admin, share_of_admin
from meshproxy.sidecar.clusters import share_out
from meshproxy.telemetry.exposition import PIECE_LINES
from meshproxy.telemetry.metric_table import counter, gauge
from meshproxy.telemetry.metrics import Counter, Gauge, Registry
from meshproxy.telemetry.relayed_page import RelayedPage
from meshproxy.transport.connection_info import ConnectionInfo

LOOPBACK = "127.0.0.1:40000"


class Task:
    """One that has ended."""

    def add_done_callback(self, callback: Callable[..., None]) -> None:
        callback(self)


class FakeLoop:
    def __init__(self) -> None:
        self.ready: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.timers: list[tuple[float, Callable[..., Any]]] = []

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        self.ready.append((callback, args))

    def call_later(self, delay: float, callback: Callable[..., Any]) -> None:
        self.timers.append((delay, callback))

    def create_task(self, coroutine: Any) -> Any:
        """Runs it to its end: what it awaits is ready."""
        with pytest.raises(StopIteration):
            coroutine.send(None)
        return Task()

    def turn(self) -> None:
        while self.ready:
            callback, args = self.ready.pop(0)
            callback(*args)


class FakeStream:
    """A client's stream: what it was sent."""

    def __init__(self, remote: str = LOOPBACK) -> None:
        self.info = ConnectionInfo(direction="admin", protocol="HTTP/1.1", remote=remote, local="")
        self.sink: Any = None
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.length: int | None = None
        self.body = b""
        self.ended = False
        self.has_stopped = False
        self.credited = 0
        self.reset_code: int | None = None
        self.is_full = False

    def send_response(self, status: int, headers: Headers, end: bool, length: int | None = None) -> None:
        assert not self.status
        self.status, self.headers, self.length, self.ended = status, dict(headers), length, end

    def send_data(self, data: bytes, end: bool) -> bool:
        assert not self.ended
        self.body += data
        self.ended = end
        return not self.is_full

    def credit(self, size: int) -> None:
        self.credited += size

    def stop_receiving(self) -> None:
        self.has_stopped = True

    def reset(self, code: int) -> None:
        self.reset_code = code


class Process:
    """What the admin port is about."""

    def __init__(self) -> None:
        self.conditions = {"configured": True, "not draining": True}
        self.noted: list[str] = []
        self.load: dict[str, object] | None = {"models": {}}
        self.drains = 0
        self.told: dict[str, object] | None = None
        self.live: list[bytes] = []

    def serve_live(self, stream: Any, head: RequestHead) -> None:
        self.live.append(head.target)

    def readiness(self) -> dict[str, bool]:
        return self.conditions

    def configuration(self) -> dict[str, object]:
        return {"fingerprint": "abc", "issuers": ["corp"]}

    def notes(self) -> list[str]:
        return self.noted

    async def status(self) -> dict[str, object]:
        return {"kind": "SidecarStatus"}

    def calls(self) -> dict[str, object] | None:
        return self.told

    async def scaling(self) -> dict[str, object] | None:
        return self.load

    def drain(self) -> None:
        self.drains += 1


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def admin(loop: FakeLoop, process: Process) -> Admin:
    registry = Registry()
    requests = Counter(registry, counter("meshproxy_requests_total", "Requests.", "model"))
    for number in range(2_000):
        requests.labels(f"m{number}").value = number
    return Admin(loop, registry, process, process.serve_live)  # type: ignore[arg-type]


@pytest.fixture
def ask(admin: Admin, loop: FakeLoop) -> Callable[..., FakeStream]:
    def ask(
        target: bytes,
        method: bytes = b"GET",
        authority: bytes = b"localhost:18502",
        headers: Headers = (),
        stream: FakeStream | None = None,
    ) -> FakeStream:
        stream = stream or FakeStream()
        admin.serve(stream, RequestHead(1, method, authority, target, headers, end=True))  # type: ignore[arg-type]
        loop.turn()
        return stream

    return ask


class TestHealth:
    @pytest.mark.parametrize("target", [b"/livez", b"/live", b"/livez?probe"])
    def test_it_is_alive(self, ask: Any, process: Process, target: bytes) -> None:
        process.conditions["configured"] = False
        stream = ask(target)
        assert (stream.status, stream.body, stream.ended) == (200, b"ok\n", True)

    @pytest.mark.parametrize("target", [b"/readyz", b"/ready", b"/healthz/ready"])
    def test_it_is_ready_when_everything_holds(self, ask: Any, process: Process, target: bytes) -> None:
        assert (ask(target).status, ask(target).body) == (200, b"ready\n")
        process.conditions["not draining"] = False
        stream = ask(target)
        assert (stream.status, stream.body) == (503, b"[-] not draining\nnot ready\n")

    def test_it_says_everything_if_asked(self, ask: Any) -> None:
        assert ask(b"/readyz?verbose").body == b"[+] configured\n[+] not draining\nready\n"

    def test_what_needs_attention_is_said_to_this_host_only(self, ask: Any, process: Process) -> None:
        process.noted = ["configuration rejected: f.yaml:3: bad"]
        assert ask(b"/readyz?verbose").body.endswith(b"[!] configuration rejected: f.yaml:3: bad\nready\n")
        assert ask(b"/readyz").body == b"ready\n"
        elsewhere = ask(b"/readyz?verbose", stream=FakeStream("10.0.0.1:5000")).body
        assert b"f.yaml" not in elsewhere
        assert b"[!] something needs attention: ask from this host" in elsewhere
        assert b"f.yaml" not in ask(b"/readyz?verbose", authority=b"attacker.example").body

    def test_anybody_may_ask_by_any_name(self, ask: Any) -> None:
        stream = ask(b"/readyz", authority=b"10.0.0.7:18502", stream=FakeStream("10.0.0.1:5000"))
        assert stream.status == 200


class TestMetrics:
    def test_the_page_comes_in_pieces(self, admin: Admin, loop: FakeLoop) -> None:
        """Traffic goes on between them."""
        stream: Any = FakeStream()
        admin.serve(stream, RequestHead(1, b"GET", b"x", b"/metrics", (), end=True))
        assert not stream.ended
        assert len(loop.ready) == 1
        loop.turn()
        assert stream.ended
        assert stream.headers[b"content-type"] == b"text/plain; version=0.0.4; charset=utf-8"
        assert b'meshproxy_requests_total{model="m1999"} 1999\n' in stream.body

    def test_openmetrics_if_asked_for(self, ask: Any) -> None:
        stream = ask(b"/metrics", headers=((b"accept", b"application/openmetrics-text;version=1.0.0,*/*;q=0.1"),))
        assert stream.headers[b"content-type"].startswith(b"application/openmetrics-text; version=1.0.0")
        assert stream.body.endswith(b"# EOF\n")

    def test_a_scraper_that_reads_slowly_gets_no_more_than_it_reads(self, admin: Admin, loop: FakeLoop) -> None:
        stream: Any = FakeStream()
        stream.is_full = True
        admin.serve(stream, RequestHead(1, b"GET", b"x", b"/metrics", (), end=True))
        loop.turn()
        first = len(stream.body)
        assert 0 < first < 50_000
        stream.sink.drained()
        loop.turn()
        assert first < len(stream.body)
        assert not stream.ended
        stream.is_full = False
        stream.sink.drained()
        stream.sink.drained()
        loop.turn()
        assert stream.ended
        assert stream.body.count(b"meshproxy_requests_total{") == 2_000

    def test_two_scrapers_take_turns_with_everything_else(self, admin: Admin, loop: FakeLoop) -> None:
        streams: list[Any] = [FakeStream(), FakeStream()]
        grown: list[list[int]] = []

        def look() -> None:
            grown.append([stream.body.count(b"\n") for stream in streams])
            if not all(stream.ended for stream in streams):
                loop.call_soon(look)

        for stream in streams:
            admin.serve(stream, RequestHead(1, b"GET", b"x", b"/metrics", (), end=True))
        loop.call_soon(look)
        loop.turn()
        assert streams[0].body == streams[1].body
        assert len(grown) >= 10
        for before, after in pairwise(grown):
            assert all(now - then <= PIECE_LINES + 2 for then, now in zip(before, after, strict=True))

    def test_a_source_that_pauses_does_not_end_the_page(self, loop: FakeLoop, process: Process) -> None:
        registry = Registry()
        Gauge(registry, gauge("a", "A.", "b")).read_from(lambda: [None, None, (("x",), 1.0), None])
        stream: Any = FakeStream()
        Admin(loop, registry, process, process.serve_live).serve(  # type: ignore[arg-type]
            stream, RequestHead(1, b"GET", b"x", b"/metrics", (), end=True)
        )
        loop.turn()
        assert stream.body.endswith(b'a{b="x"} 1.0\n')
        assert stream.ended

    def test_a_scraper_that_leaves_gets_nothing_more(self, admin: Admin, loop: FakeLoop) -> None:
        stream: Any = FakeStream()
        admin.serve(stream, RequestHead(1, b"GET", b"x", b"/metrics", (), end=True))
        first = len(stream.body)
        stream.sink.reset_received(ErrorCode.CANCEL, "gone")
        loop.turn()
        assert len(stream.body) == first


class TestRelay:
    """The model server's page at the end of the sidecar's."""

    @staticmethod
    def ask(admin: Admin, loop: FakeLoop, *headers: tuple[bytes, bytes], method: bytes = b"GET") -> FakeStream:
        stream: Any = FakeStream("10.0.0.1:5000")
        admin.serve(stream, RequestHead(1, method, b"x", b"/metrics", headers, end=True))
        loop.turn()
        made: FakeStream = stream
        return made

    @staticmethod
    def relaying(loop: FakeLoop, page: RelayedPage | None, asked: list[str]) -> Admin:
        async def relayed() -> RelayedPage | None:
            return page

        def relay(remote: str) -> Any:
            asked.append(remote)
            return relayed()

        registry = Registry()
        Counter(registry, counter("meshproxy_requests_total", "Requests.")).labels().value = 7
        process = Process()
        return Admin(loop, registry, process, process.serve_live, relay=relay)  # type: ignore[arg-type]

    def test_both_pages_are_one(self, loop: FakeLoop) -> None:
        page = RelayedPage()
        asked: list[str] = []
        page.feed([b"# TYPE :a counter", b":a 1"])
        admin = self.relaying(loop, page, asked)
        stream = self.ask(admin, loop)
        assert stream.body.endswith(b"meshproxy_requests_total 7\n# TYPE :a counter\n:a 1\n")
        assert stream.ended
        assert asked == ["10.0.0.1:5000"]
        stream = self.ask(admin, loop, (b"accept", b"application/openmetrics-text"))
        assert stream.body.endswith(b"meshproxy_requests_total 7\n# TYPE :a unknown\n:a 1\n# EOF\n")

    def test_without_the_other_its_own_is_there(self, loop: FakeLoop) -> None:
        stream = self.ask(self.relaying(loop, None, []), loop)
        assert stream.body.endswith(b"meshproxy_requests_total 7\n")
        assert stream.ended

    def test_a_head_asks_for_neither(self, loop: FakeLoop) -> None:
        asked: list[str] = []
        stream = self.ask(self.relaying(loop, None, asked), loop, method=b"HEAD")
        assert (stream.status, stream.body, asked) == (200, b"", [])


class TestSwitches:
    @pytest.mark.parametrize(
        "authority", [b"localhost:18502", b"LocalHost", b"127.0.0.1:18502", b"[::1]:18502", b"[::1]"]
    )
    @pytest.mark.parametrize("remote", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1"])
    def test_this_host_may_by_its_own_name(self, ask: Any, process: Process, authority: bytes, remote: str) -> None:
        stream = ask(b"/config", authority=authority, stream=FakeStream(remote))
        assert json.loads(stream.body) == {"fingerprint": "abc", "issuers": ["corp"]}
        assert stream.headers[b"content-type"] == b"application/json"
        assert ask(b"/drain", b"POST", authority=authority, stream=FakeStream(remote)).status == 202
        assert process.drains == 1

    @pytest.mark.parametrize(
        "authority",
        [
            b"rebound.example",
            b"rebound.example:18502",
            b"localhost.example",
            b"localhost:x:1",
            b"",
            b":18502",
            b"[::1",
            b"1",
        ],
    )
    def test_a_page_of_another_site_may_not(self, ask: Any, process: Process, authority: bytes) -> None:
        """DNS rebinding: the browser is on this host, the name is theirs."""
        assert ask(b"/config", authority=authority).status == 403
        assert ask(b"/status", authority=authority).status == 403
        assert ask(b"/tap?rate=1", authority=authority).status == 403
        assert ask(b"/stat", authority=authority).status == 403
        assert ask(b"/drain", b"POST", authority=authority).status == 403
        assert process.drains == 0
        assert process.live == []

    @pytest.mark.parametrize(
        "field",
        [
            (b"origin", b"http://site.example"),
            (b"origin", b"null"),
            (b"sec-fetch-site", b"cross-site"),
            (b"sec-fetch-site", b"same-site"),
        ],
    )
    def test_a_form_of_another_site_may_not(self, ask: Any, process: Process, field: tuple[bytes, bytes]) -> None:
        """The browser is on this host and names it; the page cannot read the answer, and need not."""
        assert ask(b"/drain", b"POST", headers=(field,)).status == 403
        assert ask(b"/tap?rate=1", headers=(field,)).status == 403
        assert ask(b"/status", headers=(field,)).status == 403
        assert (process.drains, process.live) == (0, [])
        assert ask(b"/status", headers=((b"sec-fetch-site", b"none"),)).status == 200

    @pytest.mark.parametrize("remote", ["10.0.0.1:1", "[fe80::1]:1", "[::ffff:10.0.0.1]:1", "128.0.0.1:1"])
    def test_another_host_may_not(self, ask: Any, process: Process, remote: str) -> None:
        assert ask(b"/config", stream=FakeStream(remote)).status == 403
        assert ask(b"/status", stream=FakeStream(remote)).status == 403
        assert ask(b"/tap", stream=FakeStream(remote)).status == 403
        assert ask(b"/stat", stream=FakeStream(remote)).status == 403
        assert ask(b"/drain", b"POST", stream=FakeStream(remote)).status == 403
        assert process.drains == 0

    def test_live_pages_are_served_to_this_host_without_a_time_limit(
        self, ask: Any, process: Process, loop: FakeLoop
    ) -> None:
        assert ask(b"/tap?model=a").status == ask(b"/stat").status == 0
        assert process.live == [b"/tap?model=a", b"/stat"]
        assert loop.timers == []

    @pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT"])
    def test_a_link_does_not_drain(self, ask: Any, process: Process, method: bytes) -> None:
        stream = ask(b"/drain", method)
        assert (stream.status, stream.headers[b"allow"]) == (405, b"POST")
        assert process.drains == 0


class TestForm:
    @pytest.mark.parametrize("target", [b"/livez", b"/readyz", b"/metrics", b"/config", b"/status"])
    def test_what_is_only_read_is_not_written(self, ask: Any, target: bytes) -> None:
        stream = ask(target, b"POST")
        assert (stream.status, stream.headers[b"allow"]) == (405, b"GET")

    @pytest.mark.parametrize("target", [b"/", b"/livez/", b"/LIVEZ", b"/config/x", b"*"])
    def test_anything_else_is_not_there(self, ask: Any, target: bytes) -> None:
        stream = ask(target)
        assert stream.status == 404
        assert b"/metrics" in stream.body

    @pytest.mark.parametrize("target", [b"/livez", b"/readyz", b"/metrics", b"/config", b"/status", b"/nowhere"])
    def test_head_has_the_head_of_get_and_no_body(self, ask: Any, target: bytes) -> None:
        """Over HTTP/2 a body would break the stream (RFC 9110 section 9.3.2)."""
        full, head = ask(target), ask(target, b"HEAD")
        assert (head.status, head.headers, head.length) == (full.status, full.headers, full.length)
        assert head.body == b""
        assert head.ended

    @pytest.mark.parametrize("target", [b"/livez", b"/readyz", b"/metrics", b"/config", b"/status", b"/nowhere"])
    def test_nobody_guesses_types(self, ask: Any, target: bytes) -> None:
        assert ask(target).headers[b"x-content-type-options"] == b"nosniff"

    def test_what_the_codec_refuses_is_answered(self, admin: Admin) -> None:
        stream: Any = FakeStream()
        admin.reject(stream, Rejected(1, 431, "the head is too large"))
        assert (stream.status, stream.body, stream.ended) == (431, b"the head is too large\n", True)

    def test_a_body_is_dropped(self, ask: Any) -> None:
        stream = ask(b"/drain", b"POST")
        assert stream.has_stopped
        stream.sink.data_received(b"x" * 10, 12, False)
        stream.sink.rejected(Rejected(1, 400, "a chunk size is malformed"))
        stream.sink.trailers_received(())
        assert stream.credited == 12


class TestTime:
    def test_a_client_that_does_not_read_is_given_up(self, ask: Any, loop: FakeLoop) -> None:
        stream: Any = FakeStream()
        stream.is_full = True
        ask(b"/metrics", stream=stream)
        ((delay, give_up),) = loop.timers
        assert delay == ANSWER_SECONDS
        give_up()
        assert stream.reset_code == ErrorCode.CANCEL
        stream.sink.drained()
        assert not stream.ended

    def test_one_that_has_read_is_not(self, ask: Any, loop: FakeLoop) -> None:
        stream = ask(b"/livez")
        stream.sink = None  # as the connection does
        ((_, give_up),) = loop.timers
        give_up()
        assert stream.reset_code is None


def test_the_load_is_read_by_other_pods_and_is_never_less_than_there_is(ask: Any, process: Process) -> None:
    answer = ask(b"/scaling", authority=b"10.0.0.7:18502", stream=FakeStream("10.9.9.9:40000"))
    assert (answer.status, json.loads(answer.body)) == (200, {"models": {}})
    assert ask(b"/scaling", method=b"POST").status == 405
    process.load = None
    answer = ask(b"/scaling")
    assert (answer.status, answer.body) == (
        503,
        b"not known: there is no inbound port, or a worker does not answer\n",
    )


def test_calls_are_told_to_this_host_only(ask: Any, process: Process) -> None:
    assert ask(b"/calls").status == 404
    process.told = {"since": "1", "models": {}}
    assert json.loads(ask(b"/calls").body) == process.told
    assert ask(b"/calls", stream=FakeStream("10.0.0.1:5000")).status == 403
    assert ask(b"/calls", authority=b"attacker.example").status == 403
    assert ask(b"/calls", method=b"POST").status == 405


@pytest.mark.parametrize(("descriptors", "share"), [(-1, 64), (1_024, 64), (256, 12), (128, 4), (64, 4)])
def test_its_clients_leave_descriptors_to_the_sidecar(descriptors: int, share: int) -> None:
    assert share_of_admin(descriptors) == share
    at_rest = 17
    assert descriptors < 0 or sum(share_out(descriptors)) + share + at_rest <= descriptors - 8
