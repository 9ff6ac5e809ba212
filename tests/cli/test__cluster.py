from __future__ import annotations

import sys

import click
import pytest

from meshproxy.cli import _cluster
from tests.control.fake_cluster import FakeCluster


def test_what_comes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def connect(*arguments: object) -> object:
        called.append(arguments)
        return FakeCluster(release="v1.2.3").client()

    monkeypatch.setattr("meshproxy.control.cluster.connect_paths", connect)

    async def ask(client: object) -> object:
        return (await client.get("/version")).json()  # type: ignore[attr-defined]

    assert _cluster.ask(None, "there", ask) == {"gitVersion": "v1.2.3"}
    assert called == [(None, "there")]


def test_without_its_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "meshproxy.control.cluster", raising=False)
    monkeypatch.setitem(sys.modules, "httpx2", None)

    async def ask(client: object) -> object:
        return client

    with pytest.raises(click.ClickException, match=r"^httpx2 is missing: .* '\.\[control,demo\]'$") as caught:
        _cluster.ask(None, None, ask)
    assert caught.value.exit_code == 2
