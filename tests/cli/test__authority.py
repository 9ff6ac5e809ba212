"""Where the authority of a mesh is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import time
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from meshproxy.cli import _authority
from meshproxy.control.authority_secret import AuthoritySecret
from meshproxy.control.cluster import connect
from meshproxy.control.store import FolderStore
from tests.control.fake_api_server import FakeApiServer


@click.command()
@_authority.options
def look(**place: Any) -> None:
    kept = _authority.find(**place)
    kept.place.rotation()
    authority = kept.place.find_authority()
    assert authority is not None
    now = time()
    click.echo(f"{kept.place.where} {authority.id} {kept.leaves.valid(now)} {kept.tokens.waiting_tokens(now)}")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(look, arguments)


def test_a_folder(tmp_path: Path) -> None:
    authority = FolderStore(tmp_path).authority("m.example", time())
    assert run("--folder", str(tmp_path)).output == f"{tmp_path} {authority.id} [] []\n"


async def test_a_secret(tmp_path: Path) -> None:
    async with FakeApiServer() as fake:
        kubeconfig = fake.write_kubeconfig(tmp_path, "elsewhere")
        client, store = connect(kubeconfig, "mesh"), FolderStore(tmp_path / "a")
        await AuthoritySecret(client, "authority", store, "m.example").bring(time())
        await client.close()
        authority = store.authority("m.example", time())
        where = ("--authority-secret", "authority", "--kubeconfig", str(kubeconfig))
        result = await asyncio.to_thread(run, *where, "--control-namespace", "mesh")
        assert result.output == f"the Secret mesh/authority {authority.id} [] []\n"
        result = await asyncio.to_thread(run, *where)
        assert isinstance(result.exception, AssertionError)  # nothing in the namespace meshproxy


@pytest.mark.parametrize("more", [[], ["--folder", ".", "--authority-secret", "authority"]])
def test_one_place_is_named(more: list[str]) -> None:
    result = run(*more)
    assert (result.exit_code, "one of them" in result.output) == (2, True)


def test_a_cluster_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text("{")
    result = run("--authority-secret", "authority", "--kubeconfig", str(path))
    assert (result.exit_code, str(path) in result.output) == (1, True)
