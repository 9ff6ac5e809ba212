"""Real sockets of this machine: a server of asyncio's at the other end, in plain and as a peer of the mesh."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from meshproxy.codec.events import RequestHead
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.devtools.ca import DevelopmentCA, IssuedCertificate
from meshproxy.identity.caller import Workload
from meshproxy.identity.certificates import Credentials, client_context, server_context
from meshproxy.identity.mesh_context import MeshContext
from meshproxy.identity.peer import PeerRole, read_peer
from meshproxy.transport.certificate_age import EARLIEST, LATEST
from meshproxy.transport.channel import own_connections
from meshproxy.transport.connect_failures import ConnectError, ConnectFailure
from meshproxy.transport.connection import ConnectionContext
from meshproxy.transport.connector import PeerSecurity, connect_h1, connect_h2
from meshproxy.transport.h2_client import H2Client
from meshproxy.transport.listener import PeerRejected

PATIENCE = 30.0
"""Seconds for what succeeds or fails at once, even on a busy machine."""
SHORT = 0.5
"""Seconds for what never succeeds."""


class Owner:
    """A pool that is told when connections come back and when they are gone."""

    def __init__(self) -> None:
        self.free: list[Any] = []
        self.gone = asyncio.Event()

    def released(self, connection: Any) -> None:
        self.free.append(connection)

    def stream_closed(self, connection: Any) -> None: ...
    def retired(self, connection: Any) -> None: ...

    def closed(self, connection: Any) -> None:
        self.gone.set()


class Answer:
    """A sink that waits for the end of the answer."""

    def __init__(self, stream: Any) -> None:
        stream.sink = self
        self.stream = stream
        self.status = 0
        self.body = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def head_received(self, head: Any) -> None:
        self.status = head.status
        if head.end:
            self.over.set_result(None)

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        self.body += data
        self.stream.credit(flow)
        if end:
            self.over.set_result(None)

    def trailers_received(self, headers: Any) -> None:
        self.over.set_result(None)

    def reset_received(self, code: int, reason: str) -> None:
        self.over.set_exception(ConnectionError(reason))

    def drained(self) -> None: ...


@pytest.fixture
async def running() -> ConnectionContext:
    return own_connections()


async def serve_h1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"GET /a HTTP/1.1\r\nhost: x\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    assert await reader.read() == b""
    writer.close()


async def serve_h2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits | None = None) -> None:
    codec = H2Connection(Role.SERVER, limits or Limits(), 0.0)
    while data := await reader.read(65_536):
        for event in codec.receive(data, 0.0):
            if isinstance(event, RequestHead):
                codec.send_response(event.stream, 200, (), end=False)
                codec.send_data(event.stream, b"hi", end=True)
        writer.write(codec.take_output())
    writer.close()


def sockets() -> int:
    """How many this process has open."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            count += str(entry.readlink()).startswith("socket:")
        except OSError:
            pass  # the one that lists them
    return count


@asynccontextmanager
async def serving(handler: Any, path: Path | None = None, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server, whose ends of all connections are closed when it is over."""
    if path is not None:
        server: asyncio.Server = await asyncio.start_unix_server(handler, path, ssl=context)
        address = f"unix:{path}"
    else:
        server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=context)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    before = sockets()
    try:
        yield address
        async with asyncio.timeout(PATIENCE):
            while sockets() > before:
                await asyncio.sleep(0.002)
    finally:
        server.close()


async def exchange(connection: Any) -> Answer:
    answer = Answer(connection.open() if isinstance(connection, H2Client) else connection)
    answer.stream.send_request(RequestHead(0, b"GET", b"x", b"/a", (), end=True))
    await answer.over
    return answer


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
@pytest.mark.parametrize("is_unix", [False, True], ids=["TCP", "UNIX socket"])
async def test_an_exchange_over_a_connection(
    running: ConnectionContext, version: str, is_unix: bool, tmp_path: Path
) -> None:
    owner = Owner()
    connect, handler = (connect_h1, serve_h1) if version == "HTTP/1.1" else (connect_h2, serve_h2)
    async with serving(handler, tmp_path / "socket" if is_unix else None) as address:
        connection = await connect(running, address, owner, PATIENCE)
        info = connection.info
        assert (info.direction, info.protocol, info.remote) == ("upstream", version, address)
        assert len(running.reaper) == 1
        answer = await exchange(connection)
        assert (answer.status, answer.body) == (200, b"hi")
        connection.close()
        await owner.gone.wait()
    assert len(running.reaper) == 0


async def test_small_pieces_are_not_kept_back(running: ConnectionContext) -> None:
    owner = Owner()
    async with serving(serve_h1) as address:
        connection = await connect_h1(running, address, owner, PATIENCE)
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await exchange(connection)
        connection.close()
        await owner.gone.wait()


@contextmanager
def listening_to_nobody() -> Iterator[str]:
    """A port whose queue is full: who knocks is not answered."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        address = sock.getsockname()
        callers = [socket.socket() for _ in range(4)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(address)
        yield f"127.0.0.1:{address[1]}"
        for caller in callers:
            caller.close()


@pytest.mark.parametrize("connect", [connect_h1, connect_h2])
async def test_a_server_that_does_not_accept_is_given_up(running: ConnectionContext, connect: Any) -> None:
    with listening_to_nobody() as address, pytest.raises(ConnectError) as caught:
        await connect(running, address, Owner(), 0.1)
    assert str(caught.value) == f"{address} did not accept a connection within 0.1 s"
    assert len(running.reaper) == 0


@pytest.mark.parametrize("connect", [connect_h1, connect_h2])
async def test_a_server_that_is_not_there_is_named(running: ConnectionContext, connect: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConnectError) as caught:
        await connect(running, address, Owner(), PATIENCE)
    assert str(caught.value).startswith(f"{address} cannot be reached: ")
    assert "refused" in str(caught.value)
    path = f"unix:{tmp_path}/nobody"
    with pytest.raises(ConnectError, match=f"^{path} cannot be reached: No such file"):
        await connect(running, path, Owner(), PATIENCE)
    assert len(running.reaper) == 0


@pytest.mark.parametrize("connect", [connect_h1, connect_h2])
async def test_a_unix_socket_whose_queue_is_full_is_waited_for(
    running: ConnectionContext, connect: Any, tmp_path: Path
) -> None:
    """connect(2) fails with EAGAIN then: asyncio takes that for a connection, and uvloop for a failure."""
    address = f"unix:{tmp_path}/socket"
    handler = serve_h1 if connect is connect_h1 else serve_h2
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as before:
        sock.bind(address.removeprefix("unix:"))
        sock.listen(0)
        before.connect(address.removeprefix("unix:"))
        with pytest.raises(ConnectError) as caught:
            await connect(running, address, Owner(), 0.1)
        assert str(caught.value) == f"{address} did not accept a connection within 0.1 s"
        assert caught.value.failure is ConnectFailure.TIMEOUT
        owner = Owner()
        attempt = asyncio.create_task(connect(running, address, owner, PATIENCE))
        await asyncio.sleep(0.02)
        sock.accept()[0].close()  # now there is room
        server = await asyncio.start_unix_server(handler, sock=sock)
        connection = await attempt
        assert (await exchange(connection)).body == b"hi"
        connection.close()
        await owner.gone.wait()
        server.close()
    assert len(running.reaper) == 0


async def test_a_unix_socket_that_nobody_serves_any_more(running: ConnectionContext, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(address.removeprefix("unix:"))
    with pytest.raises(ConnectError) as caught:
        await connect_h2(running, address, Owner(), PATIENCE)
    assert caught.value.failure is ConnectFailure.REFUSED
    (tmp_path / "socket").unlink()
    async with serving(serve_h2, tmp_path / "socket"):
        owner = Owner()
        connection = await connect_h2(running, address, owner, PATIENCE)
        connection.close()
        await owner.gone.wait()


class Dialling:
    """A loop that only says whom it was asked to call."""

    def __init__(self) -> None:
        self.called: tuple[str, int] | None = None

    def time(self) -> float:
        return 0.0

    async def create_connection(self, factory: Any, host: str, port: int, **kwargs: None) -> None:
        self.called = (host, port)
        raise OSError(113, "No route to host")


@pytest.mark.parametrize(
    ("address", "host"),
    [("[::1]:8500", "::1"), ("models.example:8500", "models.example"), ("10.0.0.1:8500", "10.0.0.1")],
)
async def test_addresses(running: ConnectionContext, address: str, host: str) -> None:
    dialling = running.loop = Dialling()  # type: ignore[assignment]
    with pytest.raises(ConnectError, match="No route to host"):
        await connect_h1(running, address, Owner(), PATIENCE)
    assert dialling.called == (host, 8500)


# What a server may be that is reached and is none


async def said(connecting: Any) -> str:
    """The error of an attempt."""
    with pytest.raises(ConnectError) as caught:
        await connecting
    return str(caught.value)


async def gone(running: ConnectionContext) -> None:
    """Nothing is left of an attempt, and nobody has anything to say about it any more."""
    async with asyncio.timeout(PATIENCE):
        while len(running.reaper):
            await asyncio.sleep(0.002)
    gc.collect(1)
    await asyncio.sleep(0)


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.read(65_536):
            pass
    except OSError:
        pass  # who has waited in vain breaks off
    writer.close()


def say(data: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await say_nothing(reader, writer)

    return handler


async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def read_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(65_536)
    writer.close()


async def go_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    codec = H2Connection(Role.SERVER, Limits(), 0.0)
    codec.go_away(final=True)
    writer.write(codec.take_output())
    await say_nothing(reader, writer)


NOT_HTTP_2 = "{} does not speak HTTP/2: check whether the port is its gRPC port, and whether it expects TLS"


async def test_a_silent_server_is_given_up(running: ConnectionContext) -> None:
    owner = Owner()
    async with serving(say_nothing) as address:
        assert await said(connect_h2(running, address, owner, SHORT)) == (
            f"{address} did not complete the HTTP/2 handshake within {SHORT} s"
        )
        await gone(running)
    assert owner.gone.is_set()


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), NOT_HTTP_2),
        (say(b"\x15\x03\x01\x00\x02\x02\x16" + bytes(9)), NOT_HTTP_2),
        (close_at_once, "{} closed the connection immediately: check whether it expects TLS"),
        (read_and_close, "{} closed the connection immediately: check whether it expects TLS"),
        (go_away, "{} closed the connection immediately after the HTTP/2 handshake"),
    ],
    ids=["HTTP/1.1", "TLS", "closes", "reads and closes", "goes away"],
)
async def test_a_server_that_greets_nobody(running: ConnectionContext, handler: Any, error: str) -> None:
    owner = Owner()
    async with serving(handler) as address:
        assert await said(connect_h2(running, address, owner, PATIENCE)) == error.format(address)
        await gone(running)
    assert owner.gone.is_set()


async def test_what_a_server_allows_is_known_from_the_beginning(running: ConnectionContext) -> None:
    owner = Owner()

    async def allow_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve_h2(reader, writer, Limits(streams=0))

    async with serving(allow_nothing) as address:
        connection = await connect_h2(running, address, owner, PATIENCE)
        assert not connection.can_open
        assert connection.refuses_streams
        connection.close()
        await owner.gone.wait()


async def test_an_attempt_that_is_given_up_leaves_nothing(running: ConnectionContext) -> None:
    owner = Owner()
    async with serving(say_nothing) as address:
        attempt = asyncio.create_task(connect_h2(running, address, owner, PATIENCE))
        async with asyncio.timeout(PATIENCE):
            while not len(running.reaper):
                await asyncio.sleep(0.002)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        await gone(running)
    assert owner.gone.is_set()


@pytest.mark.parametrize("connect", [connect_h1, connect_h2])
async def test_an_attempt_that_is_cancelled_as_it_succeeds_leaves_nothing(
    running: ConnectionContext, connect: Any
) -> None:
    """uvloop closes the socket then, and says nothing to the protocol (uvloop 0.23)."""
    owner = Owner()
    add = running.reaper.add

    def add_and_cancel(connection: Any) -> None:
        add(connection)
        attempt.cancel()

    running.reaper.add = add_and_cancel
    async with serving(say_nothing) as address:
        attempt = asyncio.create_task(connect(running, address, owner, PATIENCE))
        with pytest.raises(asyncio.CancelledError):
            await attempt
        await gone(running)
    assert owner.gone.is_set()


# Peers of the mesh

DOMAIN = "dev.example"
CA = DevelopmentCA.create(DOMAIN)
OTHER_CA = DevelopmentCA.create(DOMAIN)
YESTERDAY = datetime.now(UTC) - timedelta(days=1)
SERVER_ID = f"spiffe://{DOMAIN}/ns/models/sa/server"


def credentials(leaf: IssuedCertificate, trusts: DevelopmentCA = CA) -> Credentials:
    return Credentials(leaf.certificate_pem, leaf.key_pem, trusts.bundle_pem)


def expired(account: str) -> Credentials:
    before = YESTERDAY - timedelta(days=1)
    return credentials(CA.issue(f"spiffe://{DOMAIN}/ns/models/sa/{account}", not_before=before, not_after=YESTERDAY))


SERVER = credentials(CA.issue(SERVER_ID))
CLIENT = credentials(CA.issue(f"spiffe://{DOMAIN}/ns/models/sa/client"))
STRANGER = credentials(OTHER_CA.issue(SERVER_ID))


def verify(tls: ssl.SSLObject) -> Workload:
    """As a sidecar does."""
    workload = read_peer(tls.getpeercert(binary_form=True) or b"", DOMAIN, time.time(), PeerRole.SERVER)
    if workload.spiffe_id != SERVER_ID:
        raise PeerRejected(f"it is {workload.spiffe_id}, not {SERVER_ID}")
    return workload


def peer(ours: Credentials = CLIENT, protocols: tuple[str, ...] = ("h2",)) -> PeerSecurity:
    context = client_context(ours, protocols=protocols)
    return PeerSecurity(lambda: context, verify)


async def serve_peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await serve_h2(reader, writer)
    except OSError:
        pass  # whoever does not like us breaks off


@pytest.mark.parametrize("connect", [connect_h1, connect_h2])
async def test_a_connection_is_good_for_less_than_the_life_of_both_certificates(
    running: ConnectionContext, connect: Any
) -> None:
    """Ours is the one that was presented: a rotation during the handshake does not reach the connection."""
    context = peer().context()
    assert isinstance(context, MeshContext)
    context.not_after = time.time() + 60.0
    security = PeerSecurity(lambda: context, verify)
    async with serving(serve_peer, None, server_context(SERVER)) as address:
        owner = Owner()
        connection = await connect(running, address, owner, PATIENCE, security)
        assert 60.0 * EARLIEST - 10.0 < connection.good_until - running.loop.time() < 60.0 * LATEST
        connection.close()
        await owner.gone.wait()
    await gone(running)


@pytest.mark.parametrize("security", [None, peer()], ids=["plain", "TLS"])
async def test_what_a_server_answers_before_it_closes_is_not_lost(
    running: ConnectionContext, security: PeerSecurity | None
) -> None:
    """All of it may come in one read, of which a slice is processed at once, and the end with it."""
    count = 1_000

    async def answer_all_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        codec = H2Connection(Role.SERVER, Limits(), 0.0)
        asked: list[int] = []
        writer.write(codec.take_output())
        while len(asked) < count:
            events = codec.receive(b"" if codec.has_more else await reader.read(65_536), 0.0)
            asked += [event.stream for event in events if isinstance(event, RequestHead)]
        for stream in asked:
            codec.send_response(stream, 200, (), end=False)
            codec.send_data(stream, b"hi", end=True)
        writer.write(codec.take_output())
        writer.close()

    owner = Owner()
    async with serving(answer_all_and_close, None, server_context(SERVER) if security else None) as address:
        connection = await connect_h2(running, address, owner, PATIENCE, security)
        answers = [Answer(connection.open()) for _ in range(count)]
        for answer in answers:
            answer.stream.send_request(RequestHead(0, b"GET", b"x", b"/a", (), end=True))
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(answer.over for answer in answers))
            await owner.gone.wait()
    assert {answer.body for answer in answers} == {b"hi"}
    await gone(running)


@pytest.mark.parametrize("is_unix", [False, True], ids=["TCP", "UNIX socket"])
async def test_an_exchange_with_a_peer(running: ConnectionContext, tmp_path: Path, is_unix: bool) -> None:
    owner = Owner()
    path = tmp_path / "socket" if is_unix else None
    async with serving(serve_peer, path, server_context(SERVER)) as address:
        connection = await connect_h2(running, address, owner, PATIENCE, peer())
        info = connection.info
        assert (info.protocol, info.tls_version, info.alpn) == ("HTTP/2", "TLSv1.3", "h2")
        assert isinstance(info.peer, Workload)
        assert info.peer.spiffe_id == SERVER_ID
        until = info.peer.not_after - time.time()
        assert until * EARLIEST - PATIENCE < connection.good_until - running.loop.time() < until * LATEST + PATIENCE
        assert connection.scheme == b"https"
        if not is_unix:
            sock = connection.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        answer = await exchange(connection)
        assert (answer.status, answer.body) == (200, b"hi")
        connection.close()
        await owner.gone.wait()
    await gone(running)


async def test_a_rotated_identity_is_used_by_the_next_connection(running: ConnectionContext) -> None:
    contexts = [client_context(CLIENT, protocols=("h2",)) for _ in range(2)]
    made = list(contexts)
    security = PeerSecurity(lambda: made.pop(0), verify)
    async with serving(serve_peer, context=server_context(SERVER)) as address:
        for context in contexts:
            owner = Owner()
            connection = await connect_h2(running, address, owner, PATIENCE, security)
            assert connection.transport.get_extra_info("sslcontext") in (context, None)
            connection.close()
            await owner.gone.wait()
    assert made == []


UNKNOWN_AUTHORITY = (
    "the certificate of {} is not issued by a trusted authority: while an authority rotates, the trust bundle must "
    "hold the old one and the new one"
)
PEERS: dict[str, tuple[Credentials, PeerSecurity, str]] = {
    "another id": (
        credentials(CA.issue(f"spiffe://{DOMAIN}/ns/models/sa/other")),
        peer(),
        f"{{}} has an unexpected identity: it is spiffe://{DOMAIN}/ns/models/sa/other, not {SERVER_ID}",
    ),
    "expired": (
        expired("server"),
        peer(),
        "the certificate of {} has expired: check why the server did not renew it",
    ),
    "not valid yet": (
        credentials(CA.issue(SERVER_ID, not_before=datetime.now(UTC) + timedelta(hours=1))),
        peer(),
        "the certificate of {} is not valid yet: compare the clocks of this host and of the authority",
    ),
    "another authority": (
        STRANGER,
        peer(),
        UNKNOWN_AUTHORITY,
    ),
}


@pytest.mark.parametrize("which", PEERS)
async def test_a_peer_that_is_not_who_it_should_be(running: ConnectionContext, which: str) -> None:
    shown, security, error = PEERS[which]
    async with serving(serve_peer, context=server_context(shown)) as address:
        assert await said(connect_h2(running, address, Owner(), PATIENCE, security)) == error.format(address)
        await gone(running)


@pytest.mark.parametrize(("offered", "agreed"), [(("h2",), "none"), (("h2", "http/1.1"), "http/1.1")])
async def test_a_peer_that_does_not_agree_on_http_2(
    running: ConnectionContext, offered: tuple[str, ...], agreed: str
) -> None:
    async with serving(say_nothing, context=server_context(SERVER, protocols=("http/1.1",))) as address:
        assert await said(connect_h2(running, address, Owner(), PATIENCE, peer(protocols=offered))) == (
            f"{address} does not agree on HTTP/2 (ALPN {agreed}): check whether the port is a sidecar's"
        )
        await gone(running)


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (credentials(OTHER_CA.issue(f"spiffe://{DOMAIN}/ns/models/sa/client")), "tlsv1 alert unknown ca"),
        (expired("client"), "sslv3 alert certificate expired"),
    ],
    ids=["another authority", "expired"],
)
async def test_a_peer_that_does_not_like_us_is_no_connection(
    running: ConnectionContext, ours: Credentials, words: str
) -> None:
    """In TLS 1.3 the client is done with the handshake before the server has looked at its certificate."""
    async with serving(serve_peer, context=server_context(SERVER)) as address:  # asyncio's servers do not say why
        assert await said(connect_h2(running, address, Owner(), PATIENCE, peer(ours))) == (
            f"{address} closed the connection during the handshake: its log has the reason"
        )
    with refusing() as address:
        assert await said(connect_h2(running, address, Owner(), PATIENCE, peer(ours))) == (
            f"{address} rejected the TLS handshake ({words}): check that our certificate is valid and of an "
            "authority that the server trusts"
        )
    await gone(running)


@pytest.mark.parametrize(
    ("shown", "alert"),
    [(STRANGER, "TLSV1_ALERT_UNKNOWN_CA"), (expired("server"), "SSLV3_ALERT_CERTIFICATE_EXPIRED")],
    ids=["another authority", "expired"],
)
async def test_a_peer_that_we_do_not_like_is_told_why(
    running: ConnectionContext, shown: Credentials, alert: str
) -> None:
    """Or its log could not say which of its certificates callers refuse."""

    def serve() -> str | None:
        accepted = listening.accept()[0]
        with accepted, pytest.raises(ssl.SSLError) as raised:
            server_context(shown).wrap_socket(accepted, server_side=True)
        return raised.value.reason

    with socket.create_server(("127.0.0.1", 0)) as listening:
        told = asyncio.create_task(asyncio.to_thread(serve))
        await said(connect_h2(running, f"127.0.0.1:{listening.getsockname()[1]}", Owner(), PATIENCE, peer()))
        assert await told == alert
    await gone(running)


@contextmanager
def refusing() -> Iterator[str]:
    """A server that says why it refuses, as most do, and waits until that has been read."""
    context = server_context(SERVER)

    def serve() -> None:
        client, _ = sock.accept()
        client.settimeout(PATIENCE)
        with context.wrap_socket(client, server_side=True, do_handshake_on_connect=False) as tls:
            with pytest.raises(ssl.SSLError):
                tls.do_handshake()
            try:
                while socket.socket.recv(tls, 65_536):
                    pass
            except ConnectionResetError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as sock, ThreadPoolExecutor(1) as threads:
        sock.settimeout(PATIENCE)
        serving = threads.submit(serve)
        yield f"127.0.0.1:{sock.getsockname()[1]}"
        serving.result()


async def test_a_peer_that_hangs_up_after_the_handshake(running: ConnectionContext) -> None:
    """As our own listener does with an identity that it does not take."""
    async with serving(close_at_once, context=server_context(SERVER)) as address:
        assert await said(connect_h2(running, address, Owner(), PATIENCE, peer())) == (
            f"{address} closed the connection during the handshake: its log has the reason"
        )
        await gone(running)


async def test_a_peer_that_speaks_no_tls(running: ConnectionContext) -> None:
    async with serving(say(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as address:
        assert await said(connect_h2(running, address, Owner(), PATIENCE, peer())) == (
            f"{address} does not speak TLS (wrong version number): check whether the port is a sidecar's"
        )
    async with serving(close_at_once) as address:
        assert await said(connect_h2(running, address, Owner(), PATIENCE, peer())) == (
            f"{address} closed the connection during the handshake: its log has the reason"
        )
    async with serving(say_nothing) as address:
        assert await said(connect_h2(running, address, Owner(), SHORT, peer())) == (
            f"{address} did not accept a connection and complete the TLS handshake within {SHORT} s"
        )
    await gone(running)


async def test_a_mistake_of_the_verifier_lets_nobody_through(running: ConnectionContext) -> None:
    def fail(tls: ssl.SSLObject) -> Workload:
        raise ValueError("a mistake of ours")

    context = client_context(CLIENT, protocols=("h2",))
    async with serving(serve_peer, context=server_context(SERVER)) as address:
        assert await said(connect_h2(running, address, Owner(), PATIENCE, PeerSecurity(lambda: context, fail))) == (
            f"the certificate of {address} cannot be verified: ValueError('a mistake of ours')"
        )
        await gone(running)
