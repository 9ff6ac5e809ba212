"""Tokens that are verified with the keys of the cluster."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from meshproxy.config import unreadable
from meshproxy.control.authority import RequestRefused
from meshproxy.control.offline_tokens import ClusterKeys, KeysUnusable, OfflineTokens
from tests.control.pod_tokens import ISSUER, POD, PodTokens


@pytest.fixture
def tokens() -> PodTokens:
    return PodTokens()


@pytest.fixture
def keys(tmp_path: Path, tokens: PodTokens) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(tokens.issuer.jwks()))
    return path


async def refused(offline: OfflineTokens, token: str) -> str:
    with pytest.raises(RequestRefused) as caught:
        await offline.identify(token)
    assert token not in caught.value.message
    return caught.value.reason


async def test_a_pod_is_identified(tokens: PodTokens, keys: Path) -> None:
    offline = OfflineTokens(ClusterKeys(ISSUER, keys))
    assert await offline.identify(tokens.token()) == POD


async def test_refusals(tokens: PodTokens, keys: Path) -> None:
    offline = OfflineTokens(ClusterKeys(ISSUER, keys))
    now = int(time.time())
    assert await refused(offline, PodTokens().token()) == "token-unauthenticated"  # another cluster's
    assert await refused(offline, tokens.token(iss="https://other.example")) == "token-unauthenticated"
    assert await refused(offline, tokens.token(aud=["api"])) == "token-audience"
    assert await refused(offline, tokens.token(exp=now - 61, iat=now - 600, nbf=now - 600)) == "token-expired"
    assert await refused(offline, tokens.token(exp=now + 90_000)) == "token-unauthenticated"  # for more than a day
    assert await refused(offline, tokens.token(**{"kubernetes.io": {"namespace": "models"}})) == "token-not-bound"
    assert await refused(offline, tokens.token()[:-2] + "AA") == "token-unauthenticated"
    rest = tokens.token().partition(".")[2]
    assert await refused(offline, f"e30.{rest}") == "token-unauthenticated"  # no algorithm


async def test_keys_that_rotate(tokens: PodTokens, keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    offline = OfflineTokens(ClusterKeys(ISSUER, keys))
    before = tokens.token()
    await offline.identify(before)
    tokens.issuer.rotate(keep=0)
    assert await refused(offline, tokens.token()) == "token-unauthenticated"
    keys.write_text(json.dumps(tokens.issuer.jwks()))
    assert await offline.identify(tokens.token()) == POD
    assert await refused(offline, before) == "token-unauthenticated"  # though it was verified a moment ago
    for spoil in (lambda: keys.write_text("{"), keys.unlink):
        spoil()
        assert await offline.identify(tokens.token()) == POD
        assert "those before stay in use" in caplog.records[-1].message
    count = len(caplog.records)
    await offline.identify(tokens.token())
    assert len(caplog.records) == count  # said once


async def test_keys_that_their_mount_does_not_follow_are_told(
    tokens: PodTokens, keys: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline = OfflineTokens(ClusterKeys(ISSUER, keys))
    monkeypatch.setattr(unreadable, "not_followed", lambda path: "replaced outside")
    keys.write_text(json.dumps(tokens.issuer.jwks(), indent=1))  # the state is another one, as without a name
    for _ in range(2):
        assert await offline.identify(tokens.token()) == POD
    assert [record.message for record in caplog.records] == [f"{keys} was replaced outside"]


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(KeysUnusable, match=r"cannot be read: No such file .*kubectl get --raw /openid/v1/jwks"):
        OfflineTokens(ClusterKeys(ISSUER, tmp_path / "none.json"))
    path = tmp_path / "keys.json"
    path.write_text('{"keys": []}')
    with pytest.raises(KeysUnusable, match="no usable key"):
        OfflineTokens(ClusterKeys(ISSUER, path))
