"""Fetching keys from an issuer that behaves, from ones that do not, and the task that keeps them fresh."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import Any

import pytest

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.identity.jwk import KEY_SET_BYTES
from meshproxy.identity.keys import IssuerKeys
from meshproxy.identity.tokens import Issuer, KeysWanted, TokenVerifier
from meshproxy.sidecar import fetch as fetching
from meshproxy.sidecar.fetch import FetchError, KeyRefresher, Url, fetch, from_discovery, from_file, from_url

ES = frozenset({"ES256"})


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


@asynccontextmanager
async def answering(answer: bytes, *, stays: bool = False) -> AsyncIterator[Url]:
    """A server that says the same to everybody, whatever he asks."""
    ends: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        await reader.readuntil(b"\r\n\r\n")
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
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK + b"content-length: 2\r\n\r\n{}",
    ],
)
async def test_answers(answer: bytes) -> None:
    async with answering(answer) as url:
        assert await fetch(url) == b"{}"


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
        (OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}", "not HTTP"),
        (OK + b"content-length: %d\r\n\r\n" % (KEY_SET_BYTES + 1), "not HTTP"),
        (OK + b"\r\n" + b"x" * (KEY_SET_BYTES + 1), "not HTTP"),
        (OK + b"x: " + b"y" * 20_000 + b"\r\n\r\n{}", "not HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
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
        with pytest.raises(FetchError, match=why):
            await fetch(url)


@pytest.mark.parametrize("answer", [b"", OK, OK + b"content-length: 5\r\n\r\n{", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_an_issuer_that_falls_silent(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FETCH_SECONDS", 0.05)
    async with answering(answer, stays=True) as url:
        with pytest.raises(TimeoutError):
            await fetch(url)


async def test_nobody_listens() -> None:
    async with answering(b"") as url:
        pass
    with pytest.raises(ConnectionRefusedError):
        await fetch(url)


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
        assert json.loads(await from_url(issuer.keys_url, ca_file)()) == issuer.jwks()
        assert json.loads(await from_discovery(issuer.issuer, ca_file)()) == issuer.jwks()
        with pytest.raises(ssl.SSLCertVerificationError):  # the system's authorities do not know it
            await from_url(issuer.keys_url)()
        with pytest.raises(ssl.SSLCertVerificationError):
            await from_url(issuer.keys_url, DevelopmentCA.create("x.example").write(tmp_path / "x"))()


async def test_a_certificate_of_another_name(authority: DevelopmentCA, tmp_path: Path) -> None:
    ca_file = authority.write(tmp_path)
    tls = server_tls(authority, tmp_path, "other.example")
    async with DevelopmentIssuer.serve(tls=tls, name="localhost", algorithm="ES256") as issuer:
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            await from_url(issuer.keys_url, ca_file)()


async def test_authorities_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(FetchError, match=name):
            await from_url("https://localhost:1/", tmp_path / name)()


async def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    with pytest.raises(FileNotFoundError):
        await from_file(path)()
    path.write_bytes(b"{}")
    assert await from_file(path)() == b"{}"
    path.write_bytes(bytes(KEY_SET_BYTES + 10))
    assert len(await from_file(path)()) == KEY_SET_BYTES + 1


# Discovery: what an issuer may and may not say of itself.

ISSUER = "https://login.example/tenant/"


def documents(**documents: object) -> Callable[[Url, Path | None], Awaitable[bytes]]:
    """A `fetch` that has these, by target."""

    async def get(url: Url, ca_file: Path | None) -> bytes:
        found = documents[f"{url.authority}{url.target}"]
        return found if isinstance(found, bytes) else json.dumps(found).encode()

    return get


async def discover(monkeypatch: pytest.MonkeyPatch, configuration: Any) -> bytes:
    theirs = {"login.example/tenant/keys": b"ours", "keys.example/k": b"theirs", "10.0.0.7/k": b"bare"}
    known = {"login.example/tenant/.well-known/openid-configuration": configuration, **theirs}
    monkeypatch.setattr(fetching, "fetch", documents(**known))
    return await from_discovery(ISSUER)()


@pytest.mark.parametrize(
    ("jwks_uri", "expected"), [("https://login.example/tenant/keys", b"ours"), ("https://keys.example/k", b"theirs")]
)
async def test_discovery(monkeypatch: pytest.MonkeyPatch, jwks_uri: str, expected: bytes) -> None:
    assert await discover(monkeypatch, {"issuer": ISSUER, "jwks_uri": jwks_uri}) == expected


@pytest.mark.parametrize(
    ("configuration", "why"),
    [
        (b"<html>", "not JSON"),
        ([], "not a JSON object"),
        ({"jwks_uri": "https://keys.example/k"}, "another issuer"),
        ({"issuer": ISSUER.rstrip("/"), "jwks_uri": "https://keys.example/k"}, "another issuer"),
        ({"issuer": "https://login.example/", "jwks_uri": "https://keys.example/k"}, "another issuer"),
        ({"issuer": [ISSUER], "jwks_uri": "https://keys.example/k"}, "another issuer"),
        ({"issuer": ISSUER}, "no jwks_uri"),
        ({"issuer": ISSUER, "jwks_uri": ["https://keys.example/k"]}, "no jwks_uri"),
        ({"issuer": ISSUER, "jwks_uri": "http://keys.example/k"}, "jwks_uri.*https"),
        ({"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"}, "jwks_uri.*https"),
        ({"issuer": ISSUER, "jwks_uri": "/keys"}, "jwks_uri.*https"),
        ({"issuer": ISSUER, "jwks_uri": "https://169.254.169.254/k"}, "leads to an address"),
        ({"issuer": ISSUER, "jwks_uri": "https://10.0.0.7/k"}, "leads to an address"),
        ({"issuer": ISSUER, "jwks_uri": "https://[fd00::1]/k"}, "leads to an address"),
        ({"issuer": ISSUER, "jwks_uri": "http://127.0.0.1:18502/drain"}, "leads to an address"),
        ({"issuer": ISSUER, "jwks_uri": "https://localhost/k"}, "leads to an address"),
    ],
)
async def test_discovery_that_is_not_followed(monkeypatch: pytest.MonkeyPatch, configuration: Any, why: str) -> None:
    with pytest.raises(FetchError, match=why):
        await discover(monkeypatch, configuration)


def test_discovery_in_the_clear() -> None:
    with pytest.raises(FetchError, match="https"):
        from_discovery("http://login.example")


# Keeping them fresh.


def document(issuer: DevelopmentIssuer) -> bytes:
    return json.dumps(issuer.jwks()).encode()


async def test_whole_life_with_an_issuer() -> None:
    """Verified, rotated, verified at once; down: known keys go on, unknown ones do not wait."""
    async with DevelopmentIssuer.serve(algorithm="ES256") as issuer:
        keys = IssuerKeys("corp", ES)
        attempts: list[str | None] = []
        refresher = KeyRefresher(keys, from_discovery(issuer.issuer), report=lambda keys: attempts.append(keys.problem))
        verifier = TokenVerifier([Issuer("corp", issuer.issuer, frozenset({"models"}), keys)])
        token = b"Bearer " + issuer.token().encode()
        with pytest.raises(KeysWanted):
            verifier.verify(token, time())
        await refresher.refresh()
        assert verifier.verify(token, time()).subject == "quoter"
        assert issuer.requests == ["/.well-known/openid-configuration", "/keys"]

        issuer.is_down = True
        await refresher.refresh()
        assert verifier.verify(token, time() + 200).subject == "quoter"
        assert not keys.may_ask(time() + 1000)
        assert attempts == [None, "the answer has status 503"]


class Source:
    """A key set that comes when it is let go."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> bytes:
        self.asked += 1
        answer = self.answers[min(self.asked, len(self.answers)) - 1]
        await self.gate.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(scope="module")
def corp() -> DevelopmentIssuer:
    return DevelopmentIssuer(algorithm="ES256")


async def test_one_fetch_however_many_ask(corp: DevelopmentIssuer) -> None:
    source = Source(document(corp))
    source.gate.clear()
    keys = IssuerKeys("corp", ES)
    refresher = KeyRefresher(keys, source)
    running = asyncio.create_task(refresher.run())
    waiting = [asyncio.create_task(refresher.refresh()) for _ in range(50)]
    while not source.asked:
        await asyncio.sleep(0)
    waiting.pop().cancel()  # one who goes away takes nothing from the others
    await asyncio.sleep(0)
    source.gate.set()
    await asyncio.gather(*waiting)
    assert source.asked == 1
    assert keys.has_keys
    assert not keys.may_ask(time())  # all of them have had their answer: none of them is sent to ask again
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (FetchError("the answer has status 500"), "the answer has status 500"),
        (TimeoutError(), "no answer within 5 seconds"),
        (ConnectionRefusedError(111, "Connection refused"), "cannot be read or reached: Connection refused"),
        (UnicodeError("label empty or too long"), "cannot be read or reached: UnicodeError"),
        (ZeroDivisionError(), "cannot be read or reached: ZeroDivisionError"),
    ],
)
async def test_whatever_happens_is_a_failure_not_an_end(
    corp: DevelopmentIssuer, error: Exception, problem: str
) -> None:
    source = Source(error, document(corp))
    keys = IssuerKeys("corp", ES)
    reports: list[tuple[str | None, int, bool]] = []

    def report(keys: IssuerKeys) -> None:
        reports.append((keys.problem, keys.failures, keys.has_keys))

    refresher = KeyRefresher(keys, source, report=report, jitter=lambda: 0.0)
    await refresher.refresh()
    await refresher.refresh()
    assert reports == [(problem, 1, False), (None, 0, True)]


async def test_it_runs_on(corp: DevelopmentIssuer) -> None:
    source = Source(document(corp), FetchError("once"), document(corp))
    keys = IssuerKeys("corp", ES, refresh=0.001)
    done = asyncio.Event()
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.5  # whatever is due, is due at the next look
        return now

    def report(keys: IssuerKeys) -> None:
        if source.asked >= 5:
            done.set()

    running = asyncio.create_task(KeyRefresher(keys, source, report=report, clock=clock, jitter=lambda: 0.0).run())
    await asyncio.wait_for(done.wait(), 5)
    assert keys.failures == 0
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_stopped_in_the_middle(corp: DevelopmentIssuer) -> None:
    source = Source(document(corp))
    source.gate.clear()
    keys = IssuerKeys("corp", ES)
    refresher = KeyRefresher(keys, source)
    running = asyncio.create_task(refresher.run())
    while not source.asked:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    assert not keys.is_refreshing
    assert keys.failures == 0  # that we stopped says nothing about the issuer
