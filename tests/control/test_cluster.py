"""The client of the API fake."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from lightkube import AsyncClient
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.meta_v1 import ObjectMeta

from meshproxy.control.cluster import FAILURES, ClusterError, WatchEnded, connect, connect_paths, http_status, why
from tests.control.fake_api_server import NO_CREDENTIALS, FakeApiServer

Widget = create_namespaced_resource("tests.example", "v1", "Widget", "widgets")
PATH = "/apis/tests.example/v1/namespaces/models/widgets"


@pytest.fixture
async def client(fake: FakeApiServer, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    client = connect(fake.write_kubeconfig(tmp_path, "models"))
    yield client
    await client.close()


async def follow(client: AsyncClient, seen: list[Any], then: Callable[[], object]) -> None:
    """A watch from the beginning, which does something after each event."""
    async for kind, each in client.watch(Widget, resource_version="1000"):
        seen.append((kind, each))
        then()


async def test_nothing_is_compressed(fake: FakeApiServer, client: AsyncClient) -> None:
    assert [each async for each in client.list(Widget)] == []
    assert [request.headers["accept-encoding"] for request in fake.requests] == ["identity"]


async def test_a_watch_ends_where_the_server_ends_it(fake: FakeApiServer, client: AsyncClient) -> None:
    seen: list[Any] = []
    await client.create(Widget(metadata=ObjectMeta(name="a")))
    with pytest.raises(WatchEnded):
        await follow(client, seen, fake.end_watches)
    assert [(kind, each.metadata.name) for kind, each in seen] == [("ADDED", "a")]
    assert len(fake.requests) == 2


async def test_line_breaks_that_json_allows_end_no_event(fake: FakeApiServer, client: AsyncClient) -> None:
    seen: list[Any] = []
    text = "a\u0085b\u2028c\u2029d"
    await client.create(Widget(metadata=ObjectMeta(name="a"), note=text))
    with pytest.raises(WatchEnded):
        await follow(client, seen, fake.end_watches)
    assert [each["note"] for _, each in seen] == [text]


@pytest.mark.parametrize(
    ("user", "says"),
    [
        ({}, "the API server answered 500"),
        (NO_CREDENTIALS, "no answer (ConfigError)"),
        ({"exec": {**NO_CREDENTIALS["exec"], "command": "./none"}}, "no answer (FileNotFoundError)"),
        ({"exec": {**NO_CREDENTIALS["exec"], "command": "true"}}, "no answer (JSONDecodeError)"),
        ({"exec": {**NO_CREDENTIALS["exec"], "command": "echo", "args": ["null"]}}, "no answer (TypeError)"),
        ({"exec": {**NO_CREDENTIALS["exec"], "command": "echo", "args": ["{}"]}}, "no answer (KeyError)"),
        ({"tokenFile": "none"}, "no answer (ConfigError)"),
    ],
    ids=["an error", "it fails", "it is not there", "it says nothing", "null", "no token", "no file"],
)
async def test_calls_that_come_to_nothing(fake: FakeApiServer, tmp_path: Path, user: Any, says: str) -> None:
    """By the credentials of whoever calls."""
    fake.status = 500
    client = connect(fake.write_kubeconfig(tmp_path, "models", user))
    with pytest.raises(FAILURES) as caught:
        await client.get(Widget, "a")
    assert why(caught.value, "get widgets") == says
    await client.close()


async def test_rights_that_are_missing(fake: FakeApiServer, client: AsyncClient) -> None:
    fake.status = 403
    with pytest.raises(FAILURES) as caught:
        await client.get(Widget, "a")
    assert http_status(caught.value) == 403
    assert why(caught.value, "get widgets") == "the API server answered 403: this control plane may not get widgets"


async def test_paths(fake: FakeApiServer, tmp_path: Path) -> None:
    """By the context that is named."""
    kubeconfig = fake.write_kubeconfig(tmp_path, "models", {"token": "secret"})
    async with connect_paths(kubeconfig, "fake") as client:
        assert (await client.get(PATH)).json()["items"] == []
    (request,) = fake.requests
    assert (request.headers["authorization"], request.headers["accept-encoding"]) == ("Bearer secret", "identity")
    with pytest.raises(ClusterError, match="Context 'other' not found"):
        connect_paths(kubeconfig, "other")
    with pytest.raises(ClusterError, match="auth-provider not supported"):
        connect_paths(fake.write_kubeconfig(tmp_path, "models", {"auth-provider": {"name": "x"}}))


async def test_a_program_that_gets_a_token(fake: FakeApiServer, tmp_path: Path) -> None:
    """It is told which version is asked for; kubeconfigs of clouds have either."""
    program = tmp_path / "token"
    program.write_text(
        "import json, os\n"
        'told = json.loads(os.environ["KUBERNETES_EXEC_INFO"])\n'
        'assert told["kind"] == "ExecCredential" and not told["spec"]["interactive"]\n'
        'print(json.dumps({**told, "status": {"token": os.environ["PREFIX"] + told["apiVersion"].rpartition("/")[2]}}))'
    )
    for version in ("v1beta1", "v1"):
        run = {
            "apiVersion": f"client.authentication.k8s.io/{version}",
            "command": sys.executable,
            "args": [str(program)],
            "env": [{"name": "PREFIX", "value": "of-"}],
        }
        async with connect_paths(fake.write_kubeconfig(tmp_path, "models", {"exec": run})) as client:
            await client.get(PATH)
        assert fake.requests[-1].headers["authorization"] == f"Bearer of-{version}"


@pytest.mark.parametrize("server", ["", "10.0.0.1:6443", "not a url", "https://", "https://h:99999", "ftp://h"])
def test_addresses_that_are_none(tmp_path: Path, server: str) -> None:
    path = FakeApiServer(url=server).write_kubeconfig(tmp_path, "models")
    with pytest.raises(ClusterError, match="server: expected an address such as https"):
        connect(path)


def test_a_namespace_of_ones_own(tmp_path: Path) -> None:
    path = FakeApiServer(url="http://127.0.0.1:1").write_kubeconfig(tmp_path, "models")
    assert (connect(path).namespace, connect(path, "other").namespace) == ("models", "other")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "not found"),
        ("{", "expected"),
        ("{}", "no such entry: 'clusters'"),
        ("hello", "this is no kubeconfig: expected clusters, contexts and users"),
        ("[]", "this is no kubeconfig: expected clusters, contexts and users"),
        ('{"clusters": "c", "contexts": []}', "this is no kubeconfig"),
        ('{"clusters": [{"name": "c", "cluster": {"server": 1}}], "contexts": []}', "this is no kubeconfig: Expected"),
        (json.dumps({"clusters": [], "contexts": []}), "No current context"),
        (
            json.dumps(
                {
                    "current-context": "c",
                    "clusters": [
                        {"name": "c", "cluster": {"server": "https://c", "certificate-authority": "none.pem"}}
                    ],
                    "contexts": [{"name": "c", "context": {"cluster": "c"}}],
                }
            ),
            "a certificate or key that it names cannot be read: .*No such file",
        ),
    ],
    ids=[
        "no file",
        "not YAML",
        "no clusters",
        "a word",
        "a list",
        "clusters are a word",
        "a server is a number",
        "no context",
        "no authority",
    ],
)
def test_what_cannot_be_used(tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ClusterError, match=problem):
        connect(path)


def test_outside_of_a_cluster_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = FakeApiServer(url="http://127.0.0.1:1").write_kubeconfig(tmp_path, "models")
    monkeypatch.setenv("KUBECONFIG", str(path))
    assert connect().namespace == "models"
    path.unlink()
    with pytest.raises(ClusterError, match="neither a service account nor a kubeconfig can be used"):
        connect()
