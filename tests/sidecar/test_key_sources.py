"""Where key sets come from, and what an issuer's discovery document may and may not say."""

from __future__ import annotations

import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.identity.jwk import KEY_SET_BYTES
from meshproxy.sidecar import key_sources
from meshproxy.sidecar.http_get import FetchError, Url
from meshproxy.sidecar.key_sources import from_discovery, from_file, from_url


async def test_from_an_issuer(tmp_path: Path) -> None:
    authority = DevelopmentCA.create("login.example")
    ca_file = authority.write(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(dns=["localhost"]).write(tmp_path, "issuer"))
    async with DevelopmentIssuer.serve(tls=context, name="localhost", algorithm="ES256") as issuer:
        assert json.loads(await from_url(issuer.keys_url, ca_file)()) == issuer.jwks()
        assert json.loads(await from_discovery(issuer.issuer, ca_file)()) == issuer.jwks()


async def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    with pytest.raises(FileNotFoundError):
        await from_file(path)()
    path.write_bytes(b"{}")
    assert await from_file(path)() == b"{}"
    path.write_bytes(bytes(KEY_SET_BYTES + 10))
    assert len(await from_file(path)()) == KEY_SET_BYTES + 1


ISSUER = "https://login.example/tenant/"


def documents(**documents: object) -> Callable[[Url, int, Path | None], Awaitable[bytes]]:
    """A `fetch` that has these, by target."""

    async def get(url: Url, max_bytes: int, ca_file: Path | None) -> bytes:
        assert max_bytes == KEY_SET_BYTES
        found = documents[f"{url.authority}{url.target}"]
        return found if isinstance(found, bytes) else json.dumps(found).encode()

    return get


async def discover(monkeypatch: pytest.MonkeyPatch, configuration: Any) -> bytes:
    theirs = {"login.example/tenant/keys": b"ours", "keys.example/k": b"theirs", "10.0.0.7/k": b"bare"}
    known = {"login.example/tenant/.well-known/openid-configuration": configuration, **theirs}
    monkeypatch.setattr(key_sources, "fetch", documents(**known))
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
        ({"issuer": ISSUER, "jwks_uri": "https://169.254.169.254/k"}, "not an IP address"),
        ({"issuer": ISSUER, "jwks_uri": "https://10.0.0.7/k"}, "not an IP address"),
        ({"issuer": ISSUER, "jwks_uri": "https://[fd00::1]/k"}, "not an IP address"),
        ({"issuer": ISSUER, "jwks_uri": "http://127.0.0.1:18502/drain"}, "not an IP address"),
        ({"issuer": ISSUER, "jwks_uri": "https://localhost/k"}, "not an IP address"),
    ],
)
async def test_discovery_that_is_not_followed(monkeypatch: pytest.MonkeyPatch, configuration: Any, why: str) -> None:
    with pytest.raises(FetchError, match=why):
        await discover(monkeypatch, configuration)


def test_discovery_without_tls() -> None:
    with pytest.raises(FetchError, match="https"):
        from_discovery("http://login.example")
