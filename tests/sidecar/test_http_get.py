"""One GET: URLs that are allowed, servers that respond well and badly, and TLS."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from meshproxy.config import unreadable
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.sidecar import http_get
from meshproxy.sidecar.http_get import Access, FetchError, Url
from meshproxy.transport.client import ClientError, ClientFailure

LIMIT = 4_096


async def fetch(url: Url, ca_file: Path | None = None) -> bytes:
    return await http_get.fetch(url, LIMIT, Access(ca_file))


@pytest.mark.parametrize(
    ("text", "expected", "authority"),
    [
        ("https://login.example/keys", Url(True, "login.example", 443, "/keys"), "login.example"),
        ("https://login.example", Url(True, "login.example", 443, "/"), "login.example"),
        ("https://Login.Example:8443/a?b=c", Url(True, "login.example", 8443, "/a?b=c"), "login.example:8443"),
        ("https://10.0.0.7/keys", Url(True, "10.0.0.7", 443, "/keys"), "10.0.0.7"),
        ("https://[2001:db8::1]:8443/", Url(True, "2001:db8::1", 8443, "/"), "[2001:db8::1]:8443"),
        ("http://127.0.0.1:8080/keys", Url(False, "127.0.0.1", 8080, "/keys"), "127.0.0.1:8080"),
        ("http://localhost/keys", Url(False, "localhost", 80, "/keys"), "localhost"),
        ("http://[::1]:80/", Url(False, "::1", 80, "/"), "[::1]"),
    ],
)
def test_urls(text: str, expected: Url, authority: str) -> None:
    assert Url.read(text) == expected
    assert expected.authority == authority


@pytest.mark.parametrize(
    "text",
    [
        "",
        "login.example",
        "//login.example/",
        "ftp://login.example/",
        "file:///etc/passwd",
        "HTTPS://login.example/",
        "http://login.example/keys",
        "http://127.0.0.1.evil.example/",
        "http://127.1/",
        "http://0.0.0.0/",
        "https://user@login.example/",
        "https://user:secret@login.example/",
        "https://login.example:0/",
        "https://login.example:65536/",
        "https://login.example:x/",
        "https://login.example/#a",
        "https://login.example/a b",
        "https://login.example/a\r\nx: y",
        "https://login.example\\@evil.example/",
        "https://l\u00f6gin.example/",
        "https://login_example/",
        "https:///keys",
        " https://login.example/",
        "https://login.example/\n",
    ],
)
def test_urls_that_are_not_fetched(text: str) -> None:
    with pytest.raises(FetchError):
        Url.read(text)


def test_any_host_may_be_called_in_plain_text_where_that_is_meant() -> None:
    assert Url.read_any("http://collector:4318/v1/traces") == Url(False, "collector", 4318, "/v1/traces")
    with pytest.raises(FetchError):
        Url.read_any("http://user@collector/")


@asynccontextmanager
async def answering(answer: bytes, *, stays: bool = False) -> AsyncIterator[Url]:
    """A server that gives every request the same response."""
    ends: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        await reader.read(65_536)
        writer.write(answer)
        if not stays:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Url(False, "127.0.0.1", server.sockets[0].getsockname()[1], "/keys")
    finally:
        server.close()
        for writer in ends:
            writer.transport.abort()
        await server.wait_closed()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"content-length: 2\r\n\r\n{}",
        OK + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: y\r\n\r\n",
        OK + b"connection: close\r\n\r\n{}",
        OK + b"content-encoding: Identity\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK + b"content-length: 2\r\n\r\n{}",
    ],
)
async def test_answers(answer: bytes) -> None:
    async with answering(answer) as url:
        assert await fetch(url) == b"{}"


async def test_a_compressed_answer() -> None:
    content = gzip.compress(b"{}")
    async with answering(OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(content) + content) as url:
        with pytest.raises(FetchError, match=r"is compressed .content-encoding., which was not asked for"):
            await fetch(url)


async def test_an_empty_answer() -> None:
    async with answering(OK + b"content-length: 0\r\n\r\n", stays=True) as url:
        assert await fetch(url) == b""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "broke off"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "broke off"),
        (OK + b"content-length: 9\r\n\r\n{}", "broke off"),
        (OK + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", "broke off"),
        (OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}", "malformed"),
        (OK + b"content-length: %d\r\n\r\n" % (LIMIT + 1), "response body exceeds 4096 bytes"),
        (OK + b"\r\n" + b"x" * (LIMIT + 1), "response body exceeds 4096 bytes"),
        (OK + b"x: " + b"y" * 20_000 + b"\r\n\r\n{}", "response head exceeds 16384 bytes"),
        (OK + b"x: " + b"y" * 80_000 + b"\r\n\r\n{}", "malformed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "malformed"),
        (
            b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
            "status 403: .* requires a token: set bearerTokenFile",
        ),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "status 404$"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "status 204$"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\n\r\n", "status 302: redirects are not followed"),
        (
            b"HTTP/1.1 308 Moved\r\nlocation: https://x.example/\r\ncontent-length: 0\r\n\r\n",
            "redirects are not followed",
        ),
    ],
)
async def test_answers_that_are_not_taken(answer: bytes, why: str) -> None:
    async with answering(answer) as url:
        with pytest.raises(ClientError, match=why):
            await fetch(url)


@pytest.mark.parametrize("answer", [b"", OK, OK + b"content-length: 5\r\n\r\n{", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_an_issuer_that_falls_silent(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_get, "FETCH_SECONDS", 0.05)
    async with answering(answer, stays=True) as url:
        with pytest.raises(ClientError, match=r"did not .* within 0\.05 s") as failed:
            await fetch(url)
        assert failed.value.failure is ClientFailure.TIMEOUT


async def test_no_listener() -> None:
    async with answering(b"") as url:
        pass
    with pytest.raises(ClientError, match="cannot be reached: Connection refused") as failed:
        await fetch(url)
    assert failed.value.failure is ClientFailure.CONNECT


async def test_a_peer_without_tls() -> None:
    async with answering(OK) as url:
        with pytest.raises(ClientError, match=r"127\.0\.0\.1:[0-9]+ does not speak TLS") as failed:
            await fetch(replace(url, is_tls=True))
    assert failed.value.failure is ClientFailure.TLS


@pytest.fixture(scope="module")
def authority() -> DevelopmentCA:
    return DevelopmentCA.create("login.example")


def server_tls(authority: DevelopmentCA, directory: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(dns=[name]).write(directory, "issuer"))
    return context


async def test_a_private_authority(authority: DevelopmentCA, tmp_path: Path) -> None:
    ca_file = authority.write(tmp_path)
    tls = server_tls(authority, tmp_path, "localhost")
    async with DevelopmentIssuer.serve(tls=tls, name="localhost", algorithm="ES256") as issuer:
        assert issuer.issuer.startswith("https://localhost:")
        url = Url.read(issuer.keys_url)
        assert json.loads(await fetch(url, ca_file)) == issuer.jwks()
        ca_file.write_bytes(b"\xef\xbb\xbf" + ca_file.read_bytes())  # all forms that identity files may have
        assert json.loads(await fetch(url, ca_file)) == issuer.jwks()
        for other in (None, DevelopmentCA.create("x.example").write(tmp_path / "x")):  # None: the system's authorities
            with pytest.raises(ClientError, match=r"the certificate of localhost:\d+ is not issued by") as failed:
                await fetch(url, other)
            assert failed.value.failure is ClientFailure.TLS


async def test_a_certificate_of_another_name(authority: DevelopmentCA, tmp_path: Path) -> None:
    ca_file = authority.write(tmp_path)
    tls = server_tls(authority, tmp_path, "other.example")
    async with DevelopmentIssuer.serve(tls=tls, name="localhost", algorithm="ES256") as issuer:
        with pytest.raises(ClientError, match=r"is for another name .Hostname mismatch"):
            await fetch(Url.read(issuer.keys_url), ca_file)


async def test_authorities_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(FetchError, match=name):
            await fetch(Url.read("https://localhost:1/"), tmp_path / name)


@asynccontextmanager
async def hearing(
    authority: DevelopmentCA, directory: Path, status: int = 200
) -> AsyncIterator[tuple[Url, list[bytes]]]:
    """A server with TLS that writes down what it is sent."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\n{}" % status)
        writer.close()

    context = server_tls(authority, directory, "localhost")
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield Url(True, "localhost", server.sockets[0].getsockname()[1], "/keys"), heard
    finally:
        server.close()
        await server.wait_closed()


async def test_what_is_sent(authority: DevelopmentCA, tmp_path: Path) -> None:
    ca_file = authority.write(tmp_path)
    async with hearing(authority, tmp_path) as (url, heard):
        await fetch(url, ca_file)
        await http_get.fetch(url, LIMIT, Access(ca_file), http_get.KEY_SET)
    assert [line for line in heard[0].split(b"\r\n") if line.startswith(b"a")] == [
        b"accept: application/json, */*;q=0.1",
        b"accept-encoding: identity",
    ]
    assert b"\r\naccept: application/jwk-set+json, application/json;q=0.9, */*;q=0.1\r\n" in heard[1]


async def test_a_token_is_read_for_each_fetch(authority: DevelopmentCA, tmp_path: Path) -> None:
    """The kubelet replaces a projected token when four fifths of its life have passed."""
    file = tmp_path / "token"
    access = Access(authority.write(tmp_path), file)
    async with hearing(authority, tmp_path) as (url, heard):
        for text in ("first.token.a_-", "second.token.b\n"):
            file.write_text(text)
            await http_get.fetch(url, LIMIT, access)
            assert f"\r\nauthorization: Bearer {text.strip()}\r\n".encode() in heard[-1]
    async with hearing(authority, tmp_path, 401) as (url, _):
        with pytest.raises(ClientError, match=r"status 401: the server refuses the token$"):
            await http_get.fetch(url, LIMIT, access)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"a b", b"a\r\nx: y", b"\xff", b"a" * (http_get.TOKEN_BYTES + 1)], ids=range(6)
)
async def test_a_token_that_is_none_is_not_sent(authority: DevelopmentCA, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    async with hearing(authority, tmp_path) as (url, heard):
        with pytest.raises(FetchError, match=r"token holds no bearer token$"):
            await http_get.fetch(url, LIMIT, Access(authority.write(tmp_path), file))
        file.unlink()
        with pytest.raises(FetchError, match="cannot be read: No such file"):
            await http_get.fetch(url, LIMIT, Access(authority.write(tmp_path), file))
    assert heard == []


async def test_a_token_goes_to_servers_of_the_authority_only(authority: DevelopmentCA, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a.b.c")
    other = DevelopmentCA.create("x.example").write(tmp_path / "x")
    async with hearing(authority, tmp_path) as (url, heard):
        with pytest.raises(ClientError, match="is not issued by a trusted authority"):
            await http_get.fetch(url, LIMIT, Access(other, file))
        with pytest.raises(FetchError, match="over https only"):
            await http_get.fetch(replace(url, is_tls=False), LIMIT, Access(other, file))
    assert heard == []


def test_a_token_that_its_mount_does_not_follow_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (path := tmp_path / "token").write_text("t")
    monkeypatch.setattr(unreadable, "not_followed", lambda path: "replaced outside")
    assert http_get._read_token(path) == b"t"
    assert [record.message for record in caplog.records] == [f"{path} was replaced outside"]
