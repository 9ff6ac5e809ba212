"""`meshproxy control`."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.control import command
from meshproxy.control.attestation import redeem_token
from meshproxy.control.authority_secret import AuthoritySecret
from meshproxy.control.cluster import connect, connect_blocking
from meshproxy.control.shared_objects import SharedObjects
from meshproxy.control.shared_tokens import SharedTokens
from meshproxy.control.store import FolderStore
from meshproxy.devtools.child import CONTROL
from tests.control.fake_api_server import FakeApiServer

ID = "spiffe://m.example/ns/models/sa/resnet"


KEYS = ["--trust-domain", "m.example", "--service-account-keys", __file__, "--service-account-issuer", "https://a"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    FolderStore(tmp_path).authority("m.example", time.time())
    return tmp_path


def test_a_join_token(folder: Path) -> None:
    result = run("join-token", "--folder", str(folder), "--identity", ID, "--expires", "5m")
    assert result.exit_code == 0, result.output
    assert redeem_token(FolderStore(folder), result.output.strip(), time.time() + 299.0) == ID


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--identity", "resnet"], "--identity: "),
        (["--identity", "spiffe://n.example/ns/a/sa/b"], "is not in the trust domain m.example"),
        (["--identity", ID, "--expires", "soon"], "--expires: "),
    ],
)
def test_join_tokens_that_make_no_sense(folder: Path, arguments: list[str], says: str) -> None:
    result = run("join-token", "--folder", str(folder), *arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_a_folder_without_control_plane(tmp_path: Path) -> None:
    result = run("join-token", "--folder", str(tmp_path / "typo"), "--identity", ID)
    assert (result.exit_code, "does not exist" in result.output) == (2, True)
    assert not (tmp_path / "typo").exists()
    result = run("join-token", "--folder", str(tmp_path), "--identity", ID)
    assert (result.exit_code, "start `meshproxy control run` first" in result.output) == (1, True)
    assert list(tmp_path.iterdir()) == []


async def test_a_join_token_in_a_cluster(tmp_path: Path) -> None:
    async with FakeApiServer() as fake:
        kubeconfig = fake.write_kubeconfig(tmp_path, "elsewhere")
        where = ("--authority-secret", "authority", "--control-namespace", "mesh", "--kubeconfig", str(kubeconfig))
        make = ("join-token", *where, "--identity", ID)
        without = await asyncio.to_thread(run, *make)
        assert (without.exit_code, "the Secret mesh/authority has no authority" in without.output) == (1, True)
        assert fake.objects == {}
        client = connect(kubeconfig, "mesh")
        await AuthoritySecret(client, "authority", FolderStore(tmp_path / "a"), "m.example").bring(time.time())
        await client.close()
        made = await asyncio.to_thread(run, *make)
        assert made.exit_code == 0, made.output
        objects = SharedObjects(connect_blocking(kubeconfig), "mesh")
        tokens, text = SharedTokens(objects, "authority"), made.output.strip()
        assert await asyncio.to_thread(redeem_token, tokens, text, time.time() + 299.0) == ID
        other = await asyncio.to_thread(run, *make[:-1], "spiffe://n.example/a")
        assert (other.exit_code, "is not in the trust domain m.example" in other.output) == (2, True)
        objects.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--trust-domain", "M!"], "--trust-domain: "),
        (["--trust-domain", "m.example", "--listen", "nowhere"], "--listen: "),
        (["--trust-domain", "m.example", "--lifetime", "0"], "--lifetime: "),
        (["--trust-domain", "m.example", "--lifetime", "9s"], "10 s at least"),
        (["--trust-domain", "m.example", "--spiffe-id", "spiffe://n.example/a"], "is not in the trust domain"),
        (["--trust-domain", "m.example", "--services"], "give --documents, too"),
        (["--trust-domain", "m.example", "--service-account-keys", __file__], "go together"),
        (["--trust-domain", "m.example", "--documents", __file__, "--cluster-documents"], "keep one"),
        (["--trust-domain", "m.example", "--service-account-issuer", "https://a"], "go together"),
        (["--trust-domain", "m.example", "--login", __file__], "--login: "),
        (["--trust-domain", "m.example", "--commands", "127.0.0.1:1"], "--commands takes --login"),
        (
            [*KEYS, "--token-review"],
            "--token-review and --service-account-keys both say who checks tokens: keep one",
        ),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, arguments: list[str], says: str) -> None:
    result = run("run", "--folder", str(tmp_path), *arguments)
    assert result.exit_code == 2
    assert says in result.output


def failure(*arguments: str) -> str:
    """What a control plane says that does not start."""
    refused = subprocess.run([*CONTROL, "run", *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert refused.returncode == 1
    return str(json.loads(refused.stderr.splitlines()[-1])["event"])


async def test_it_serves_until_sigterm(tmp_path: Path) -> None:
    arguments = ["--folder", str(tmp_path / "state"), "--trust-domain", "m.example"]
    ports = ["--listen", "127.0.0.1:0", "--web", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(*CONTROL, "run", *arguments, *ports, stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            assert json.loads(await process.stderr.readline())["event"].startswith("made a new root")
            line = json.loads(await process.stderr.readline())
        assert (line["event"], line["pid"]) == ("listening", process.pid)
        token = run("join-token", "--folder", str(tmp_path / "state"), "--identity", ID)
        assert token.output.startswith("mpj1-")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            output = await process.stderr.read()
            assert await process.wait() == 0
        assert json.loads(output.splitlines()[-1])["event"] == "stopped"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    nowhere = tmp_path / "kubeconfig"
    nowhere.write_text("{}")
    assert "cannot start: the cluster cannot be used: " in failure(
        *arguments, *ports, "--token-review", "--kubeconfig", str(nowhere)
    )
    assert "the key set cannot be read: not JSON; write it with `kubectl" in failure(*arguments, *ports, *KEYS)
    (tmp_path / "state/authority-key.pem").chmod(0o644)
    assert "set mode 0600" in failure(*arguments, *ports)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["n.example"], "expected DOMAIN=PATH once for each domain but m.example, got n.example"),
        (["m.example=b.pem"], "got m.example=b.pem"),
        ([f"n.example={__file__}", f"n.example={__file__}"], "once for each domain"),
        (["N=b.pem"], "--trust: "),
        (["n.example=/nowhere"], "there is no file /nowhere"),
    ],
)
def test_trust_domains_that_make_no_sense(folder: Path, given: list[str], says: str) -> None:
    options = [part for each in given for part in ("--trust", each)]
    result = run("run", "--folder", str(folder), "--trust-domain", "m.example", *options)
    assert (result.exit_code, says in result.output) == (2, True), result.output
