"""Where key sets come from, and what an issuer's discovery document may and may not say."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshproxy.config import unreadable
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.identity.jwk import KEY_SET_BYTES
from meshproxy.identity.keys import IssuerKeys
from meshproxy.sidecar import key_sources
from meshproxy.sidecar.http_get import JSON, KEY_SET, PEM, Access, FetchError, Url
from meshproxy.sidecar.key_sources import from_discovery, from_file, from_load_balancer, from_url
from meshproxy.transport.client import StatusError

UNTRUSTED = Access()


async def test_from_an_issuer(tmp_path: Path) -> None:
    authority = DevelopmentCA.create("login.example")
    ca_file = authority.write(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(dns=["localhost"]).write(tmp_path, "issuer"))
    async with DevelopmentIssuer.serve(tls=context, name="localhost", algorithm="ES256") as issuer:
        assert json.loads(await from_url(issuer.keys_url, Access(ca_file))()) == issuer.jwks()
        assert json.loads(await from_discovery(issuer.issuer, Access(ca_file))()) == issuer.jwks()


async def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    with pytest.raises(FileNotFoundError):
        await from_file(path)()
    path.write_bytes(b"{}")
    assert await from_file(path)() == b"{}"
    path.write_bytes(bytes(KEY_SET_BYTES + 10))
    assert len(await from_file(path)()) == KEY_SET_BYTES + 1
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="it is no regular file"):
        await from_file(path)()


async def test_a_file_that_its_mount_does_not_follow_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The keys that it has stay in use: another key of the same ConfigMap may be all that has changed."""
    (path := tmp_path / "jwks.json").write_bytes(b"{}")
    read = from_file(path)
    assert await read() == b"{}"
    monkeypatch.setattr(unreadable, "not_followed", lambda path: "replaced outside")
    assert [await read(), await read()] == [b"{}", b"{}"]
    assert [record.message for record in caplog.records] == [f"{path} was replaced outside"]


async def test_from_where_load_balancers_have_theirs() -> None:
    """One by one; what is not there is none. Whatever else goes wrong is no answer, unless it is of a key that only
    tokens name, which may be strangers'."""
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    pems = {"one": key, "two": other}
    statuses = {"gone": 404, "forbidden": 403, "broken": 500}

    async def get(request: web.Request) -> web.Response:
        kid = request.match_info["kid"]
        if kid not in pems:
            return web.Response(status=statuses.get(kid, 200), text="no key")
        assert request.headers["accept"] == PEM.decode()
        pem = pems[kid].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return web.Response(body=pem)

    def named(*kids: str) -> IssuerKeys:
        keys = IssuerKeys("people", frozenset({"ES256"}), are_single=True)
        for kid in kids:
            keys.ask(kid, 0.0)
        keys.begin()
        return keys

    app = web.Application()
    app.add_routes([web.get("/keys/{kid}", get)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys/"
        assert json.loads(await from_load_balancer(url, named(), UNTRUSTED)()) == {"keys": []}
        keys = named("one", "gone", "two", "forbidden")
        keys.take(await from_load_balancer(url, keys, UNTRUSTED)(), 0.0, 0.5)
        assert keys.wanted_ids == ("one", "two")
        with pytest.raises(StatusError):
            await from_load_balancer(url, named("broken"), UNTRUSTED)()
        keys = named("broken", "one", "text")
        keys.take(await from_load_balancer(url, keys, UNTRUSTED)(), 0.0, 0.5)
        assert keys.wanted_ids == ("one",)
        del pems["one"]
        statuses["one"] = 500
        keys.ask("gone", 60.0)
        keys.begin()
        with pytest.raises(StatusError):  # "one" is in use: that AWS fails does not say that it is gone
            await from_load_balancer(url, keys, UNTRUSTED)()
        with pytest.raises(FetchError, match="the key text is not a public key in PEM"):
            await from_load_balancer(url, named("text"), UNTRUSTED)()
    finally:
        await runner.cleanup()
    with pytest.raises(FetchError, match="use https"):
        from_load_balancer("http://keys.example", named(), UNTRUSTED)


ISSUER = "https://login.example/tenant/"
TRUSTED = Access(Path("ca.crt"))


def documents(**documents: object) -> Callable[..., Awaitable[bytes]]:
    """A `fetch` that has these, by target."""

    async def get(url: Url, max_bytes: int, access: Access, accept: bytes = JSON) -> bytes:
        assert max_bytes == KEY_SET_BYTES
        found = documents[f"{url.authority}{url.target}"]
        assert accept == (KEY_SET if isinstance(found, bytes) and b"<" not in found else JSON)
        return found if isinstance(found, bytes) else json.dumps(found).encode()

    return get


async def discover(
    monkeypatch: pytest.MonkeyPatch, configuration: Any, issuer: str = ISSUER, access: Access = UNTRUSTED
) -> bytes:
    theirs = {
        "login.example/tenant/keys": b"ours",
        "keys.example/k": b"theirs",
        "10.0.0.7/k": b"an address",
        "192.0.2.2:16443/openid/v1/jwks": b"the server's own address",
        "127.0.0.1:16443/openid/v1/jwks": b"on this host",
    }
    known = {f"{issuer.removeprefix('https://').rstrip('/')}/.well-known/openid-configuration": configuration, **theirs}
    monkeypatch.setattr(key_sources, "fetch", documents(**known))
    return await from_discovery(issuer, access)()


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
        ({"issuer": ISSUER.rstrip("/"), "jwks_uri": "https://keys.example/k"}, "another issuer: only the slash"),
        ({"issuer": "https://login.example/", "jwks_uri": "https://keys.example/k"}, "another issuer$"),
        ({"issuer": [ISSUER], "jwks_uri": "https://keys.example/k"}, "another issuer"),
        ({"issuer": ISSUER}, "no jwks_uri"),
        ({"issuer": ISSUER, "jwks_uri": ["https://keys.example/k"]}, "no jwks_uri"),
        ({"issuer": ISSUER, "jwks_uri": "http://keys.example/k"}, "jwks_uri.*https"),
        ({"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"}, "jwks_uri.*https"),
        ({"issuer": ISSUER, "jwks_uri": "/keys"}, "jwks_uri.*https"),
        ({"issuer": ISSUER, "jwks_uri": "https://169.254.169.254/k"}, "link-local"),
        ({"issuer": ISSUER, "jwks_uri": "https://10.0.0.7/k"}, "an IP address: set caFile"),
        ({"issuer": ISSUER, "jwks_uri": "https://[fd00::1]/k"}, "an IP address: set caFile"),
        ({"issuer": ISSUER, "jwks_uri": "http://127.0.0.1:18502/drain"}, "must be https"),
        ({"issuer": ISSUER, "jwks_uri": "https://localhost/k"}, "this host"),
    ],
)
async def test_discovery_that_is_not_followed(monkeypatch: pytest.MonkeyPatch, configuration: Any, why: str) -> None:
    with pytest.raises(FetchError, match=why):
        await discover(monkeypatch, configuration)


async def test_which_of_two_documents_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    async def get(url: Url, max_bytes: int, access: Access, accept: bytes) -> bytes:
        if accept == JSON:
            return json.dumps({"issuer": ISSUER, "jwks_uri": "https://keys.example/k"}).encode()
        raise StatusError("the response has status 404", 404)

    monkeypatch.setattr(key_sources, "fetch", get)
    with pytest.raises(FetchError, match=r"^the keys at the jwks_uri .*: the response has status 404$"):
        await from_discovery(ISSUER, UNTRUSTED)()


async def test_discovery_inside_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = "http://keycloak.auth.svc:8080/realms/mlops"
    inside = Access(is_inside_cluster=True)

    async def from_there(jwks_uri: str) -> bytes:
        known = {
            "keycloak.auth.svc:8080/realms/mlops/.well-known/openid-configuration": {
                "issuer": issuer,
                "jwks_uri": jwks_uri,
            },
            "keycloak.auth.svc:8080/realms/mlops/certs": b"keys",
        }
        monkeypatch.setattr(key_sources, "fetch", documents(**known))
        return await from_discovery(issuer, inside)()

    assert await from_there("http://keycloak.auth.svc:8080/realms/mlops/certs") == b"keys"
    for elsewhere in ("http://other.svc/certs", "http://169.254.169.254/certs", "http://127.0.0.1/certs"):
        with pytest.raises(FetchError, match="must be https"):
            await from_there(elsewhere)
    with pytest.raises(FetchError, match="without TLS"):
        from_url("http://keycloak.auth.svc/certs", Access())
    with pytest.raises(FetchError, match="https only"):
        from_url("http://keycloak.auth.svc/certs", Access(is_inside_cluster=True, token_file=Path("token")))


def test_discovery_without_tls() -> None:
    with pytest.raises(FetchError, match="https"):
        from_discovery("http://login.example", Access())


@pytest.mark.parametrize(
    ("issuer", "jwks_uri", "expected"),
    [
        ("https://kubernetes.default.svc", "https://192.0.2.2:16443/openid/v1/jwks", b"the server's own address"),
        ("https://kubernetes.default.svc", "https://10.0.0.7/k", b"an address"),
        ("https://127.0.0.1:16443", "https://192.0.2.2:16443/openid/v1/jwks", b"the server's own address"),
        ("https://localhost:16443", "https://127.0.0.1:16443/openid/v1/jwks", b"on this host"),
    ],
)
async def test_a_server_of_a_named_authority_may_give_its_address(
    monkeypatch: pytest.MonkeyPatch, issuer: str, jwks_uri: str, expected: bytes
) -> None:
    """As the API server of Kubernetes does, whatever the issuer is called."""
    configuration = {"issuer": issuer, "jwks_uri": jwks_uri}
    assert await discover(monkeypatch, configuration, issuer, TRUSTED) == expected
    with pytest.raises(FetchError, match="is at an IP address: set caFile"):
        await discover(monkeypatch, configuration, issuer)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "localhost.", "x.localhost", "[::1]", "[::ffff:127.0.0.1]"),
        *("169.254.169.254", "[fe80::1]", "0.0.0.0", "[::]", "224.0.0.1"),
        *("127.1", "2130706433", "0x7f000001", "0x7f.1", "127.0.0.1."),
    ],
)
async def test_no_authority_leads_to_this_host(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    with pytest.raises(FetchError, match="leads to this host or to a link-local address"):
        await discover(monkeypatch, {"issuer": ISSUER, "jwks_uri": f"https://{host}/k"}, access=TRUSTED)


def test_a_token_is_for_https() -> None:
    access = Access(Path("ca.crt"), Path("token"))
    for make in (from_url, from_discovery):
        with pytest.raises(FetchError, match="over https only"):
            make("http://127.0.0.1:1/k", access)
        make("https://127.0.0.1:1/k", access)


@asynccontextmanager
async def api_server(directory: Path, token: Path) -> AsyncIterator[tuple[str, DevelopmentIssuer]]:
    """The two documents as the API server of Kubernetes 1.37 gives them: each in one media type only, to those who
    have a token of a service account, and with its own address as `jwks_uri`."""
    authority = DevelopmentCA.create("kubernetes")
    authority.write(directory)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(extensions=[(names, False)]).write(directory, "server"))
    keys = DevelopmentIssuer("https://kubernetes.default.svc.cluster.local", algorithm="ES256")

    def accepted(request: web.Request, kind: str) -> None:
        if request.headers.get("authorization") != f"Bearer {token.read_text()}":
            raise web.HTTPForbidden
        # Without wildcards within a type, and without weights: enough to tell the two documents apart.
        if not {kind, "*/*"} & {each.partition(";")[0].strip() for each in request.headers["accept"].split(",")}:
            raise web.HTTPNotAcceptable

    async def discovery(request: web.Request) -> web.Response:
        accepted(request, "application/json")
        return web.json_response({"issuer": issuer, "jwks_uri": f"https://127.0.0.1:{port}/openid/v1/jwks"})

    async def key_set(request: web.Request) -> web.Response:
        accepted(request, "application/jwk-set+json")
        return web.json_response(keys.jwks(), content_type="application/jwk-set+json")

    application = web.Application()
    application.add_routes(
        [web.get("/.well-known/openid-configuration", discovery), web.get("/openid/v1/jwks", key_set)]
    )
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        port = runner.addresses[0][1]
        issuer = f"https://localhost:{port}"
        yield issuer, keys
    finally:
        await runner.cleanup()


async def test_a_cluster_as_issuer(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first.pod.token")
    async with api_server(tmp_path, token) as (issuer, keys):
        ca_file = next(tmp_path.glob("ca*.pem"))
        source = from_discovery(issuer, Access(ca_file, token))
        assert json.loads(await source()) == keys.jwks()
        token.write_text("second.pod.token")
        assert json.loads(await source()) == keys.jwks()
        with pytest.raises(FetchError, match=r"the OpenID configuration: .* status 403: the server requires a token"):
            await from_discovery(issuer, Access(ca_file))()
        with pytest.raises(FetchError, match=r"^the OpenID configuration: .* status 404: .* needs keys.url$"):
            await from_discovery(f"{issuer}/other", Access(ca_file, token))()
