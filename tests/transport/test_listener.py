"""Real sockets of this machine, in memory on one loop: what is accepted, and what becomes of everything that is not."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from meshproxy.codec.events import Data, GoneAway, RequestHead, ResponseHead
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.certificates import Credentials, client_context, server_context
from meshproxy.transport import connection as connections
from meshproxy.transport import listener as listeners
from meshproxy.transport.acceptor import ACCEPTS_PER_TURN
from meshproxy.transport.bound_socket import bind, format_address
from meshproxy.transport.connection import ConnectionContext, Times
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.listener import Listener, PeerRejected, Security
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper
from tests.transport.short_of_descriptors import refuse_accepts

DOMAIN = "dev.example"
CA = DevelopmentCA.create(DOMAIN)


def credentials(account: str) -> Credentials:
    leaf = CA.issue(f"spiffe://{DOMAIN}/ns/tests/sa/{account}")
    return Credentials(leaf.certificate_pem, leaf.key_pem, CA.bundle_pem)


SERVER, CLIENT = credentials("server"), credentials("client")


def tls_client(*protocols: str) -> ssl.SSLContext:
    """A client that shows a certificate."""
    return client_context(CLIENT, protocols=protocols)


def no_certificate() -> ssl.SSLContext:
    """One that has none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=CA.bundle_pem.decode())
    context.set_alpn_protocols(["http/1.1"])
    return context


def certificate_of(ca: DevelopmentCA, **options: Any) -> ssl.SSLContext:
    """A client that shows a certificate of `ca`."""
    leaf = ca.issue(f"spiffe://{DOMAIN}/ns/tests/sa/client", **options)
    return client_context(Credentials(leaf.certificate_pem, leaf.key_pem, CA.bundle_pem), protocols=["h2"])


def old_version() -> ssl.SSLContext:
    """A client that does not know TLS 1.3."""
    context = tls_client("h2")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def distrusting() -> ssl.SSLContext:
    """A client with another trust bundle."""
    return client_context(Credentials(CLIENT.certificate_pem, CLIENT.key_pem, DevelopmentCA.create(DOMAIN).bundle_pem))


def shake_hands(port: int, context: ssl.SSLContext) -> str:
    """What the client is told. Without asyncio, which closes before it has sent the alert that tells why."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        try:
            with context.wrap_socket(sock) as tls:
                tls.recv(1)
        except OSError as error:
            return str(error)
    return ""


class Counted:
    """What the port reports, and something to wait for."""

    def __init__(self) -> None:
        self.handshakes: list[str] = []
        self.limits: list[str] = []
        self.open = 0
        self._changed = asyncio.Event()

    def handshake(self, result: str, reason: str) -> None:
        self.handshakes.append(f"{result} {reason}".strip())
        self._changed.set()

    def connected(self, info: ConnectionInfo) -> None:
        self.open += 1
        self._changed.set()

    def disconnected(self, info: ConnectionInfo) -> None:
        self.open -= 1
        self._changed.set()

    def limit(self, name: str) -> None:
        self.limits.append(name)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Sink:
    """Reads a request to its end and answers with who asked."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        self._stream.credit(flow)
        if end:
            self.answer()

    def answer(self) -> None:
        info = self._stream.info
        body = f"{info.protocol} {info.tls_version or 'plain'} {info.alpn or '-'} {info.peer}".encode()
        self._stream.send_response(200, (), end=False, length=len(body))
        self._stream.send_data(body, end=True)

    def trailers_received(self, headers: Any) -> None: ...
    def rejected(self, rejected: Any) -> None: ...
    def reset_received(self, code: int, reason: str) -> None: ...
    def drained(self) -> None: ...


@dataclass
class Port:
    """A listener that listens, and what it said."""

    listener: Listener
    counted: Counted
    mistakes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def number(self) -> int:
        return int(self.listener.address.rpartition(":")[2])

    async def connect(self, context: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self.number, ssl=context, server_hostname="" if context else None
        )


def identify(tls: ssl.SSLObject | None) -> object:
    return None if tls is None or tls.getpeercert(binary_form=True) is None else "somebody"


@asynccontextmanager
async def listening(
    security: Security = Security.PLAINTEXT,
    *,
    times: Times | None = None,
    identify: Any = identify,
    max_connections: int = 100,
    reads_original_destination: bool = False,
    stranger_seconds: float | None = None,
) -> AsyncIterator[Port]:
    loop = asyncio.get_running_loop()
    counted = Counted()
    reaper = Reaper(loop)
    contexts = {
        Security.TLS: server_context(SERVER),
        Security.EITHER: server_context(SERVER, mtls="permissive"),
        Security.PLAINTEXT: None,
    }

    def serve(stream: Any, head: RequestHead) -> None:
        stream.sink = Sink(stream)
        if head.end:
            stream.sink.answer()

    def reject(stream: Any, rejected: Any) -> None:
        stream.sink = Sink(stream)
        stream.send_response(rejected.status, (), end=False, length=0)
        stream.send_data(b"", end=True)

    listener = Listener(
        direction="inbound",
        shared=ConnectionContext(
            loop=loop,
            outbox=Outbox(loop),
            reaper=reaper,
            limits=Limits(),
            times=times or Times(),
            on_limit=counted.limit,
        ),
        serve=serve,
        reject=reject,
        events=counted,
        security=security,
        context=contexts[security],
        identify=identify,
        max_connections=max_connections,
        reads_original_destination=reads_original_destination,
        stranger_seconds=stranger_seconds,
    )
    listener.listen("127.0.0.1", 0)
    reaper.start()
    port = Port(listener, counted)
    loop.set_exception_handler(lambda loop, context: port.mistakes.append(context))
    try:
        yield port
    finally:
        await listener.close()
        await counted.until(lambda: not counted.open)
        reaper.stop()
        gc.collect(1)  # what a forgotten task has to say
        await asyncio.sleep(0)
    assert port.mistakes == []


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: bytes = b"GET") -> bytes:
    """One HTTP/1.1 exchange; the answer's body."""
    writer.write(method + b" / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return await reader.readexactly(length)


async def ask_h2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """One HTTP/2 exchange, with prior knowledge."""
    codec = H2Connection(Role.CLIENT, Limits(), 0.0)
    codec.send_request(b"GET", b"http", b"x", b"/", (), end=True)
    writer.write(codec.take_output())
    body = b""
    while data := await reader.read(65_536):
        for event in codec.receive(data, 0.0):
            if not isinstance(event, ResponseHead):
                body += getattr(event, "data", b"")
                if getattr(event, "end", False):
                    return body
    raise AssertionError("the connection ended without an answer")


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        pass


async def test_what_is_accepted_inherits_its_options() -> None:
    async with listening() as port:
        # Taken by ourselves, before the loop has a turn: nobody but the kernel has set anything.
        with (
            socket.create_connection(("127.0.0.1", port.number)),
            port.listener._acceptor._sockets[0].accept()[0] as client,
        ):
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == listeners.UNSENT
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3


class TestWhatIsSpoken:
    @pytest.mark.parametrize("security", [Security.PLAINTEXT, Security.EITHER], ids=["disabled", "permissive"])
    async def test_plaintext_of_both_versions_by_the_first_bytes(self, security: Security) -> None:
        async with listening(security) as port:
            for asking, said in ((ask, b"HTTP/1.1 plain - None"), (ask_h2, b"HTTP/2 plain - None")):
                reader, writer = await port.connect()
                assert await asking(reader, writer) == said
                await leave(writer)
            assert port.counted.handshakes == []

    async def test_first_bytes_that_come_one_by_one(self) -> None:
        async with listening() as port:
            reader, writer = await port.connect()
            for byte in b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n":  # P is the preface's first, too
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            await leave(writer)

    @pytest.mark.parametrize("security", [Security.TLS, Security.EITHER], ids=["strict", "permissive"])
    @pytest.mark.parametrize(
        ("protocols", "asking", "said"),
        [
            (("h2", "http/1.1"), ask_h2, b"HTTP/2 TLSv1.3 h2 somebody"),
            (("http/1.1",), ask, b"HTTP/1.1 TLSv1.3 http/1.1 somebody"),
            (("spdy/1",), ask, b"HTTP/1.1 TLSv1.3 - somebody"),
            (("spdy/1",), ask_h2, b"HTTP/2 TLSv1.3 - somebody"),
        ],
        ids=["h2", "http/1.1", "neither, HTTP/1.1", "neither, HTTP/2"],
    )
    async def test_tls_by_alpn_or_by_the_first_bytes(
        self, security: Security, protocols: tuple[str, ...], asking: Callable[..., Awaitable[bytes]], said: bytes
    ) -> None:
        async with listening(security) as port:
            reader, writer = await port.connect(tls_client(*protocols))
            assert await asking(reader, writer) == said
            assert port.counted.handshakes == ["ok"]
            await leave(writer)

    async def test_what_is_known_of_a_connection_over_tls(self) -> None:
        async with listening(Security.TLS) as port:
            for name in ("models.example", "other.example"):
                context = tls_client("http/1.1")
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port.number, ssl=context, server_hostname=name
                )
                await ask(reader, writer)
                (connection,) = port.listener.connections
                info = connection.info
                assert (info.direction, info.protocol, info.alpn) == ("inbound", "HTTP/1.1", "http/1.1")
                assert (info.tls_version, info.server_name) == ("TLSv1.3", name)
                assert (info.remote, info.local) == (
                    format_address(writer.get_extra_info("sockname")),
                    f"127.0.0.1:{port.number}",
                )
                assert (info.peer, info.caller, info.original) == ("somebody", None, "")
                await leave(writer)
                await port.counted.until(lambda: not port.counted.open)

    async def test_what_is_known_of_a_connection_in_plaintext(self) -> None:
        async with listening(Security.EITHER) as port:
            reader, writer = await port.connect()
            await ask(reader, writer)
            (connection,) = port.listener.connections
            info = connection.info
            assert (info.tls_version, info.alpn, info.server_name, info.peer) == ("", "", "", None)
            assert not hasattr(info, "__dict__"), "one is held for each of thousands of idle connections"
            await leave(writer)

    async def test_a_server_name_that_is_not_ascii_fails_the_handshake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reported: list[Any] = []
        monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(unraisable.exc_type))
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = tls_client("h2").wrap_bio(to_client, to_server, server_hostname="models.example")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        hello = to_server.read().replace(b"models.example", b"models\xffexample")
        async with listening(Security.TLS) as port:
            reader, writer = await port.connect()
            writer.write(hello)
            await expect_end(reader, writer)
            await port.counted.until(lambda: port.counted.handshakes == ["failed other"])
        assert reported == [UnicodeDecodeError]

    async def test_no_certificate_in_permissive_mode_is_nobody(self) -> None:
        async with listening(Security.EITHER) as port:
            reader, writer = await port.connect(no_certificate())
            assert await ask(reader, writer) == b"HTTP/1.1 TLSv1.3 http/1.1 None"
            await leave(writer)

    @pytest.mark.parametrize("pieces", [(b"\r\nGET",), (b"\r", b"\n", b"GET"), (b"\r\n", b"GET")], ids=repr)
    async def test_one_empty_line_before_the_first_request_in_plaintext(self, pieces: tuple[bytes, ...]) -> None:
        async with listening() as port:
            reader, writer = await port.connect()
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.01)
            writer.write(b" / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            await leave(writer)

    @pytest.mark.parametrize(
        ("line", "status"),
        [
            (b"GET /", b"400"),
            (b"GET  / HTTP", b"400"),
            (b"GET / HTTP/1", b"400"),
            (b"GET / HTTP/1.10", b"400"),
            (b"GET / http/1.1", b"400"),
            (b"GET http://x/", b"400"),
            (b"OPTIONS *", b"400"),
            (b"GET / HTTP/0.9", b"505"),
            (b"GET / HTTP/2.0", b"505"),
        ],
    )
    async def test_a_version_that_is_missing_or_broken_gets_a_status(self, line: bytes, status: bytes) -> None:
        async with listening() as port:
            reader, writer = await port.connect()
            writer.write(line + b"\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 " + status)
            await leave(writer)

    async def test_neither_version_is_not_answered(self) -> None:
        async with listening() as port:
            reader, writer = await port.connect()
            writer.write(b"EHLO mail.example\r\n")
            assert await reader.read() == b""
            await leave(writer)

    async def test_a_broken_request_line_of_http_is_answered(self) -> None:
        async with listening() as port:
            reader, writer = await port.connect()
            writer.write(b"GET  / HTTP/1.1\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
            await leave(writer)


@pytest.mark.parametrize(
    ("reads", "found", "original"),
    [(True, "192.0.2.1:8500", "192.0.2.1:8500"), (True, None, ""), (False, "192.0.2.1:8500", "")],
    ids=["redirected", "meant for us", "not asked"],
)
async def test_where_a_redirected_connection_was_meant_to_go(
    monkeypatch: pytest.MonkeyPatch, reads: bool, found: str | None, original: str
) -> None:
    monkeypatch.setattr(listeners, "original_destination", lambda sock: found)
    async with listening(reads_original_destination=reads) as port:
        reader, writer = await port.connect()
        await ask(reader, writer)
        (connection,) = port.listener.connections
        assert connection.info.original == original
        await leave(writer)


async def expect_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Nothing but the end comes: a close, or a break."""
    try:
        while data := await reader.read(65_536):
            assert not data.startswith(b"HTTP/")
    except OSError:
        pass
    await leave(writer)


async def test_a_large_first_read_makes_way_for_others() -> None:
    """It has been processed by the time the connection exists that could weigh it."""
    async with listening() as port:
        for size, pauses in ((16_384, 1), (100, 0)):
            transport = MagicMock(get_extra_info=lambda name: None, is_closing=lambda: False)
            transport.get_write_buffer_size.return_value = 0
            detector = listeners.ProtocolDetector(port.listener, "127.0.0.1:1", "")
            detector.connection_made(transport)
            detector.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n" + bytes(size))
            assert transport.pause_reading.call_count == pauses
            transport.set_protocol.call_args[0][0].connection_lost(None)


class TestWhatIsRefused:
    async def test_strict_refuses_no_certificate(self) -> None:
        async with listening(Security.TLS) as port:
            reader, writer = await port.connect(no_certificate())  # TLS 1.3: the client is done before it is refused
            await expect_end(reader, writer)
            await port.counted.until(lambda: port.counted.handshakes == ["failed no_certificate"])
            assert port.counted.open == 0

    async def test_records_without_data_end_the_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two parts of a record stand for two reads full of key updates."""
        monkeypatch.setattr(connections, "TWO_RECORDS", 1_000)
        async with listening(Security.TLS) as port:
            reader, writer = await port.connect()
            received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = tls_client("http/1.1").wrap_bio(received, to_send)
            while not port.counted.open:
                try:
                    tls.do_handshake()
                    writer.write(to_send.read())
                    await port.counted.until(lambda: bool(port.counted.open))
                except ssl.SSLWantReadError:
                    writer.write(to_send.read())
                    received.write(await reader.read(65_536))
            (connection,) = port.listener.connections
            tls.write(bytes(16_384))
            record = to_send.read()
            writer.write(record[:5_000])
            while not connection._has_nothing:
                await asyncio.sleep(0)
            writer.write(record[5_000:10_000])
            await expect_end(reader, writer)
            assert port.counted.limits == ["tls_records_without_data"]

    async def test_strict_refuses_plaintext(self) -> None:
        async with listening(Security.TLS) as port:
            reader, writer = await port.connect()
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await expect_end(reader, writer)
            await port.counted.until(lambda: port.counted.handshakes == ["failed not_tls"])

    @pytest.mark.parametrize("security", [Security.TLS, Security.EITHER], ids=["strict", "permissive"])
    @pytest.mark.parametrize("resets", [False, True], ids=["closes", "resets"])
    async def test_a_tcp_probe_is_no_failure(
        self, security: Security, resets: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        async with listening(security) as port:
            with socket.create_connection(("127.0.0.1", port.number)) as probe:
                if resets:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await port.counted.until(lambda: port.counted.handshakes == ["probe probe"])
        assert caplog.messages == []

    async def test_every_reason_is_counted_and_logged_once_with_peer_and_cure(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        past = datetime.now(UTC) - timedelta(hours=1)
        expired = certificate_of(CA, not_before=past - timedelta(hours=1), not_after=past)
        caplog.set_level("INFO")
        async with listening(Security.TLS) as port:
            for context, reason, told in (
                (expired, "expired", "alert certificate expired"),
                (certificate_of(DevelopmentCA.create(DOMAIN)), "unknown_authority", "alert unknown ca"),
                (no_certificate(), "no_certificate", "alert certificate required"),
                (old_version(), "protocol_version", "alert protocol version"),
                (distrusting(), "refused_by_client", "self-signed certificate in certificate chain"),
            ):
                caplog.clear()
                port.counted.handshakes.clear()
                for _ in range(2):
                    said = await asyncio.to_thread(shake_hands, port.number, context)
                    assert told in said.replace("_", " ").lower()
                await port.counted.until(lambda: len(port.counted.handshakes) == 2)
                assert port.counted.handshakes == [f"failed {reason}"] * 2
                (message,) = caplog.messages
                assert message.startswith("TLS handshake with 127.0.0.1:")
                assert f" failed ({reason}): it" in message

    async def test_a_certificate_of_nobody_we_know_is_closed(self, caplog: pytest.LogCaptureFixture) -> None:
        def refuse(tls: ssl.SSLObject | None) -> object:
            raise PeerRejected("the trust domain is another one", "trust-domain")

        caplog.set_level("INFO")
        async with listening(Security.TLS, identify=refuse) as port:
            reader, writer = await port.connect(tls_client("h2"))
            await expect_end(reader, writer)
            await port.counted.until(lambda: port.counted.handshakes == ["rejected other_trust_domain"])
            assert port.counted.open == 0
        assert "the trust domain is another one" in caplog.text

    @pytest.mark.parametrize("security", list(Security), ids=lambda security: security.value)
    async def test_who_says_nothing_is_given_up(self, security: Security) -> None:
        async with listening(security, times=Times(handshake=0.1, head=0.1)) as port:
            reader, writer = await port.connect()
            await expect_end(reader, writer)
            if security is Security.PLAINTEXT:
                assert port.counted.limits == ["head_time"]
            else:
                await port.counted.until(lambda: port.counted.handshakes == ["timeout timeout"])

    async def test_a_handshake_that_stops_half_way_is_given_up(self) -> None:
        async with listening(Security.EITHER, times=Times(handshake=0.1)) as port:
            reader, writer = await port.connect()
            writer.write(b"\x16\x03\x01\x02\x00\x01")
            await expect_end(reader, writer)
            await port.counted.until(lambda: port.counted.handshakes == ["timeout timeout"])

    async def test_the_wait_for_the_first_byte_counts_as_part_of_the_handshake(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loop = asyncio.get_running_loop()
        left: asyncio.Future[float] = loop.create_future()

        async def accept(make: Any, client: socket.socket, ssl: Any, ssl_handshake_timeout: float) -> None:
            client.close()
            left.set_result(ssl_handshake_timeout)

        monkeypatch.setattr(loop, "connect_accepted_socket", accept)
        async with listening(Security.EITHER, times=Times(handshake=60.0)) as port:
            _, writer = await port.connect()
            await asyncio.sleep(0.02)
            writer.write(b"\x16")
            assert 0 < await left < 60.0 - 0.01
            writer.close()

    async def test_tls_without_alpn_that_says_nothing_is_given_up(self) -> None:
        async with listening(Security.TLS, times=Times(head=0.1)) as port:
            reader, writer = await port.connect(tls_client("spdy/1"))
            await expect_end(reader, writer)
            assert port.counted.limits == ["head_time"]


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def settled(port: Port) -> int:
    """How many there are once nothing changes any more; nothing says when a connection that never was one is gone."""
    async with asyncio.timeout(60):
        seen = [-1]
        while len({*seen[-5:]}) > 1 or len(seen) < 5 or port.counted.open or len(port.listener.shared.reaper):
            seen.append(descriptors())
            await asyncio.sleep(0.005)
    return seen[-1]


async def say_nothing_and_leave(port: Port) -> None:
    _, writer = await port.connect()
    await leave(writer)


async def break_off(port: Port) -> None:
    """A reset instead of an end."""
    sock = socket.create_connection(("127.0.0.1", port.number))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.send(b"\x16")
    sock.close()


async def send(port: Port, data: bytes) -> None:
    _, writer = await port.connect()
    writer.write(data)
    await leave(writer)


async def shake_hands_without_a_certificate(port: Port) -> None:
    reader, writer = await port.connect(no_certificate())
    await expect_end(reader, writer)


async def be_served(port: Port) -> None:
    reader, writer = await port.connect(tls_client("http/1.1"))
    await ask(reader, writer)
    await leave(writer)


async def be_served_in_plain(port: Port) -> None:
    reader, writer = await port.connect()
    await ask(reader, writer)
    await leave(writer)


FATES: dict[str, tuple[Security, Callable[[Port], Awaitable[None]]]] = {
    "leaves at once": (Security.TLS, say_nothing_and_leave),
    "leaves a permissive port at once": (Security.EITHER, say_nothing_and_leave),
    "leaves a plain port at once": (Security.PLAINTEXT, say_nothing_and_leave),
    "breaks off": (Security.TLS, break_off),
    "breaks off at a permissive port": (Security.EITHER, break_off),
    "breaks off at a plain port": (Security.PLAINTEXT, break_off),
    "talks nonsense": (Security.TLS, lambda port: send(port, b"\x16\x03\x01\x00\x05hello")),
    "talks nonsense in plain": (Security.PLAINTEXT, lambda port: send(port, b"\0\0\0\n")),
    "begins and leaves": (Security.EITHER, lambda port: send(port, b"\x16\x03")),
    "begins in plain and leaves": (Security.PLAINTEXT, lambda port: send(port, b"PRI * HT")),
    "shows no certificate": (Security.TLS, shake_hands_without_a_certificate),
    "is served": (Security.TLS, be_served),
    "is served in plain": (Security.EITHER, be_served_in_plain),
}


@pytest.mark.parametrize("fate", FATES)
async def test_no_descriptor_is_left_behind(fate: str) -> None:
    security, live = FATES[fate]
    async with listening(security) as port:
        await live(port)
        before = await settled(port)  # what a loop opens for itself stays
        for _ in range(10):
            await live(port)
        assert await settled(port) <= before


async def test_a_mistake_of_ours_costs_one_connection_and_no_descriptor(caplog: pytest.LogCaptureFixture) -> None:
    def fail(tls: ssl.SSLObject | None) -> object:
        raise RuntimeError("a mistake of ours")

    async with listening(Security.TLS, identify=fail) as port:
        reader, writer = await port.connect(tls_client("http/1.1"))
        await expect_end(reader, writer)
        port.listener.identify = identify
        reader, writer = await port.connect(tls_client("http/1.1"))
        assert await ask(reader, writer)
        await leave(writer)
        before = await settled(port)
        port.listener.identify = fail
        for _ in range(3):
            await expect_end(*await port.connect(tls_client("http/1.1")))
        assert await settled(port) <= before
        port.mistakes.clear()  # it may be said in either way


class TestHowMany:
    async def test_beyond_what_is_set_up_at_once_they_wait(self) -> None:
        """They are neither closed nor counted, and none is begun that could not be completed in time."""
        async with listening(Security.TLS) as port:
            port.listener.max_handshakes = 2
            silent = [await port.connect() for _ in range(2)]  # they keep nobody waiting
            reader, writer = await port.connect(tls_client("http/1.1"))
            assert await ask(reader, writer)
            await leave(writer)
            await port.counted.until(lambda: not port.counted.open)
            for _, writer in silent:
                writer.write(b"\x16\x03\x01\x02\x00")  # a ClientHello, as far as that
            async with asyncio.timeout(60):
                while port.listener._handshakes < 2:
                    await asyncio.sleep(0)
            third = asyncio.create_task(port.connect(tls_client("http/1.1")))
            async with asyncio.timeout(60):
                while not port.listener._acceptor.is_held:
                    await asyncio.sleep(0)
            assert port.listener.size == 2
            for _, writer in silent:
                await leave(writer)
            reader, writer = await third
            assert await ask(reader, writer)
            assert port.counted.limits == []
            await leave(writer)

    async def test_who_has_left_while_it_waited_gets_no_handshake(self) -> None:
        """Its ClientHello is there, and nobody behind it."""
        async with listening(Security.TLS) as port:
            assert port.listener.context is not None
            began: list[object] = []
            port.listener.context.sni_callback = lambda *which: began.append(which)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            with pytest.raises(ssl.SSLWantReadError):
                tls_client("h2").wrap_bio(incoming, outgoing).do_handshake()
            with socket.create_connection(("127.0.0.1", port.number)) as client:
                client.sendall(outgoing.read())
            reader, writer = await port.connect(tls_client("http/1.1"))  # which came later
            assert await ask(reader, writer)
            assert sorted(port.counted.handshakes) == ["failed closed", "ok"]
            assert len(began) == 1
            await leave(writer)

    async def test_beyond_the_limit_they_wait(self) -> None:
        async with listening(max_connections=2) as port:
            first = await port.connect()
            second = await port.connect()
            assert await ask(*first)
            assert await ask(*second)
            third = await port.connect()  # by the kernel
            third[1].write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await port.counted.until(lambda: "connections" in port.counted.limits)
            assert port.counted.open == 2
            await leave(first[1])
            assert (await third[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            await leave(second[1])
            await leave(third[1])

    async def test_strangers_give_way_to_whoever_comes(self) -> None:
        async with listening(Security.EITHER, max_connections=2, stranger_seconds=3_600.0) as port:
            left = await port.connect(no_certificate())
            assert await ask(*left)
            await leave(left[1])
            await port.counted.until(lambda: not port.counted.open)
            known = await port.connect(tls_client("http/1.1"))
            assert await ask(*known)
            strangers = []
            for _ in range(3):
                strangers.append(await port.connect(no_certificate()))
                assert await ask(*strangers[-1])
            another = await port.connect(tls_client("http/1.1"))
            assert await ask(*another)
            for reader, _ in strangers:
                async with asyncio.timeout(20):
                    with pytest.raises(ConnectionResetError):
                        await reader.read()
            # Others do not give way.
            third = await port.connect()
            seen = len(port.counted.limits)
            await port.counted.until(lambda: len(port.counted.limits) > seen + 1)
            assert await ask(*known)
            assert await ask(*another)
            for _, writer in (known, another, third, *strangers):
                await leave(writer)

    async def test_a_stranger_has_so_long(self) -> None:
        async with listening(Security.EITHER, stranger_seconds=0.05) as port:
            known = await port.connect(tls_client("http/1.1"))
            stranger = await port.connect(no_certificate())
            stranger[1].write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n")
            async with asyncio.timeout(60):
                with pytest.raises(ConnectionResetError):
                    await stranger[0].read()
            assert port.counted.limits == ["stranger_time"]
            assert await ask(*known)
            for _, writer in (known, stranger):
                await leave(writer)

    @pytest.mark.parametrize("security", [Security.PLAINTEXT, Security.TLS], ids=["plaintext", "TLS without ALPN"])
    async def test_those_who_say_nothing_count(self, security: Security) -> None:
        async with listening(security, max_connections=2) as port:
            context = tls_client("spdy/1") if security is Security.TLS else None
            silent = [await port.connect(context) for _ in range(2)]
            last = await port.connect()
            await port.counted.until(lambda: "connections" in port.counted.limits)
            for _, writer in (*silent, last):
                await leave(writer)

    async def test_a_shortage_of_descriptors_is_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        refuse_accepts(monkeypatch, errno.EMFILE, 1)
        async with listening() as port:
            reader, writer = await port.connect()
            assert await ask(reader, writer)
            await leave(writer)
            assert port.counted.limits == ["descriptors"]


class TestItsEnd:
    async def test_a_port_that_is_taken_says_so(self) -> None:
        async with listening() as port:
            with pytest.raises(OSError, match="in use"):
                port.listener.listen("127.0.0.1", port.number)
            reader, writer = await port.connect()
            assert await ask(reader, writer)
            await leave(writer)

    async def test_closing_the_port_touches_no_connection(self) -> None:
        async with listening() as port:
            reader, writer = await port.connect()
            assert await ask(reader, writer)
            port.listener.stop_accepting()
            with pytest.raises(OSError):
                await port.connect()
            assert await ask(reader, writer)
            await leave(writer)

    async def test_draining_asks_everyone_to_go_elsewhere(self) -> None:
        async with listening(Security.EITHER) as port:
            old_h1, h2 = await port.connect(), await port.connect()
            assert await ask(*old_h1)
            assert await ask_h2(*h2)
            port.listener.drain()
            reader, writer = old_h1
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in answer
            await leave(writer)
            codec = H2Connection(Role.CLIENT, Limits(), 0.0)
            codec.receive(b"\0\0\0\4\0\0\0\0\0", 0.0)
            events = codec.receive(await h2[0].read(65_536), 0.0)
            assert any(isinstance(event, GoneAway) for event in events)
            await leave(h2[1])

    async def test_a_client_that_connects_during_a_drain_is_asked_to_leave_later(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listeners, "STAY_WHILE_DRAINING", 0.2)
        now = asyncio.get_running_loop().time
        async with listening() as port:
            port.listener.drain()
            began = now()
            reader, writer = await port.connect()
            heads = [b""]
            async with asyncio.timeout(60):
                while b"\r\nconnection: close\r\n" not in heads[-1]:
                    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                    heads.append(await reader.readuntil(b"\r\n\r\n"))
                    await reader.readuntil(b"None")  # the end of the body: nobody is known here
                assert await reader.read() == b""
            assert now() - began >= 0.199  # numbers of milliseconds, subtracted
            assert len(heads) > 2
            await leave(writer)

    async def test_so_is_an_http2_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listeners, "STAY_WHILE_DRAINING", 0.2)
        now = asyncio.get_running_loop().time
        async with listening() as port:
            port.listener.drain()
            began = now()
            reader, writer = await port.connect()
            codec = H2Connection(Role.CLIENT, Limits(), 0.0)
            codec.send_request(b"GET", b"http", b"x", b"/", (), end=True)
            writer.write(codec.take_output())
            events: list[Any] = []
            async with asyncio.timeout(60):
                while not any(isinstance(event, GoneAway) for event in events):
                    events += codec.receive(await reader.read(65_536), 0.0)
            assert now() - began >= 0.199  # numbers of milliseconds, subtracted
            assert [type(event) for event in events] == [ResponseHead, Data, GoneAway]
            assert events[-1].last_stream == 2**31 - 1
            await leave(writer)

    async def test_refusing_serves_what_the_kernel_has_queued_and_closes_the_port(self) -> None:
        async with listening() as port:
            port.listener.drain()
            queued = [socket.create_connection(("127.0.0.1", port.number)) for _ in range(ACCEPTS_PER_TURN + 6)]
            port.listener.refuse(0.0)  # the loop had no turn in between
            with pytest.raises(OSError):
                await port.connect()
            assert not port.listener.is_announced
            for sock in queued:
                stream = await asyncio.open_connection(sock=sock)
                stream[1].write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                answer = await stream[0].read()
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert b"\r\nconnection: close\r\n" in answer
                await leave(stream[1])
            await port.counted.until(lambda: not port.counted.open)
            assert port.listener.is_announced

    async def test_a_connection_without_a_request_gets_goaway_with_its_first_or_when_it_is_closed(self) -> None:
        async with listening() as port:
            early = await port.connect()
            early[1].write(H2Connection(Role.CLIENT, Limits(), 0.0).take_output())
            await port.counted.until(lambda: port.counted.open == 1)
            port.listener.drain()
            port.listener.refuse(0.0)
            assert not port.listener.is_announced
            await port.listener.close()
            codec = H2Connection(Role.CLIENT, Limits(), 0.0)
            events = codec.receive(await early[0].read(), 0.0)
            assert [event.last_stream for event in events if isinstance(event, GoneAway)] == [0]
            await leave(early[1])

    async def test_it_is_quiet_between_requests_only(self) -> None:
        async def until(is_quiet: bool) -> None:
            async with asyncio.timeout(60):
                while port.listener.is_quiet is not is_quiet:
                    await asyncio.sleep(0.001)

        async with listening(Security.TLS) as port:
            await until(True)
            _, beginning = await port.connect()
            beginning.write(b"\x16")
            await until(False)
            await leave(beginning)
            await until(True)
            reader, writer = await port.connect(tls_client("http/1.1"))
            assert await ask(reader, writer)
            await until(True)
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n")
            await until(False)
            writer.write(b"end")
            await reader.readuntil(b"\r\n\r\n")
            await until(True)
            await leave(writer)

    async def test_closing_ends_everything_that_stands(self) -> None:
        async with listening(Security.EITHER, times=Times(handshake=60, head=60)) as port:
            idle = await port.connect()
            assert await ask(*idle)
            busy = await port.connect()
            busy[1].write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n")
            silent = await port.connect()
            handshaking = await port.connect()
            handshaking[1].write(b"\x16\x03")
            undecided = await port.connect()
            undecided[1].write(b"PRI")
            await port.counted.until(lambda: port.counted.open == 2)
            await port.listener.close()
            async with asyncio.timeout(60):
                for reader, writer in (idle, busy, silent, handshaking, undecided):
                    await expect_end(reader, writer)

    async def test_a_closed_port_can_be_had_again(self) -> None:
        async with listening() as port:
            number = port.number
            await port.listener.close()
            port.listener.listen("127.0.0.1", number)
            reader, writer = await port.connect()
            assert await ask(reader, writer)
            await leave(writer)


async def test_a_new_context_is_for_new_connections() -> None:
    async with listening(Security.TLS) as port:
        seen = []
        connections = []
        for own in (SERVER, credentials("server")):
            port.listener.context = server_context(own)
            reader, writer = await port.connect(tls_client("http/1.1"))
            seen.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
            connections.append((reader, writer))
        assert seen[0] != seen[1]
        for reader, writer in connections:
            assert await ask(reader, writer)
            await leave(writer)


def test_tls_needs_a_certificate() -> None:
    with pytest.raises(ValueError, match="mtls permissive needs a certificate"):
        Listener(
            direction="inbound",
            shared=ConnectionContext(
                loop=None,  # type: ignore[arg-type]
                outbox=Outbox(None),  # type: ignore[arg-type]
                reaper=None,  # type: ignore[arg-type]
                limits=Limits(),
                times=Times(),
                on_limit=lambda name: None,
            ),
            serve=lambda stream, head: None,
            reject=lambda stream, rejected: None,
            events=None,  # type: ignore[arg-type]
            security=Security.EITHER,
            context=None,
            identify=identify,
            max_connections=1,
        )


async def test_two_listeners_share_a_port() -> None:
    async with listening() as one, listening() as other:
        with bind("127.0.0.1", 0, is_shared=True) as reserved:
            number = reserved.getsockname()[1]
            for port in (one, other):
                port.listener.listen("127.0.0.1", number, is_shared=True)
            pairs = [await asyncio.open_connection("127.0.0.1", number) for _ in range(40)]
            for reader, writer in pairs:
                assert await ask(reader, writer) == b"HTTP/1.1 plain - None"
            assert one.counted.open + other.counted.open == 40
            # All of them at one happens once in 2^39 runs.
            assert one.counted.open
            assert other.counted.open
            for _, writer in pairs:
                writer.close()
                await writer.wait_closed()
