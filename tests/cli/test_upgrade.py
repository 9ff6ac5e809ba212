"""`meshproxy upgrade` before something that answers as an API server does. What is said: tests/control."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.main import main
from meshproxy.installation.kinds import kind_of
from meshproxy.installation.parts import installation
from tests.installation.test_choices import choices

Objects = dict[str, Any]


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Objects:
    """By path: everything that install prints. Applied is what is asked for."""
    objects: Objects = {}
    for each in installation(choices()):
        metadata = each["metadata"]
        objects[kind_of(each).path(metadata.get("namespace", ""), metadata["name"])] = each

    def answer(request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if request.method == "PATCH":
            return httpx2.Response(200, json=json.loads(request.content))
        if path in objects:
            return httpx2.Response(200, json=objects[path])
        if "limit" in request.url.params:
            below = [each for at, each in objects.items() if at.split("/")[-2] == path.split("/")[-1]]
            return httpx2.Response(200, json={"items": [{"metadata": each["metadata"]} for each in below]})
        return httpx2.Response(404, json={})

    def connect(*_: object) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url="https://cluster.example", transport=httpx2.MockTransport(answer))

    monkeypatch.setattr("meshproxy.control.cluster.connect_paths", connect)
    return objects


def run(*arguments: str) -> Result:
    made = choices()
    return CliRunner().invoke(main, ["upgrade", "--image", made.image, "--trust-domain", made.trust_domain, *arguments])


DEPLOYMENT = "/apis/apps/v1/namespaces/meshproxy/deployments/meshproxy-control"


def test_nothing_changes(live: Objects) -> None:
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"\nresult: √  {len(live)} unchanged\n"


def test_what_changes(live: Objects) -> None:
    del live[DEPLOYMENT]
    service = live["/api/v1/namespaces/meshproxy/services/meshproxy-control"]
    live["/api/v1/namespaces/meshproxy/services/meshproxy-control"] = service | {"spec": {"type": "NodePort"}}
    live["/api/v1/namespaces/meshproxy/services/old"] = {"metadata": {"name": "old", "namespace": "meshproxy"}}
    result = run()
    assert (result.exit_code, result.stderr) == (1, "")
    assert "\ncreate: deployments.apps/meshproxy-control --namespace meshproxy\n" in result.stdout
    assert "change: services/meshproxy-control --namespace meshproxy\n    --- live\n    +++ applied\n" in result.stdout
    assert "\n    -  type: NodePort\n" in result.stdout
    assert (
        "left over: services/old --namespace meshproxy\n"
        "    not of this release with these options: kubectl delete services/old --namespace meshproxy\n"
    ) in result.stdout
    assert result.stdout.endswith(f"\nresult: ‼  1 create, 1 change, {len(live) - 2} unchanged, 1 left over\n")


@pytest.mark.usefixtures("live")
def test_a_danger() -> None:
    result = run("--trust-domain", "other.example")
    assert result.exit_code == 2
    assert "\n\n× --trust-domain changes from prod.example to other.example: " in result.stdout
    assert "\n    next: keep it; " in result.stdout
    assert "\nresult: ×  1 change, " in result.stdout


@pytest.mark.usefixtures("live")
def test_of_a_part_nothing_is_left_over() -> None:
    result = run("--only", "crds")
    assert (result.exit_code, result.stdout) == (0, "\nresult: √  7 unchanged\n")


@pytest.mark.usefixtures("live")
def test_json() -> None:
    result = run("-o", "json", "--trust-domain", "other.example")
    assert result.exit_code == 2
    page = json.loads(result.stdout)
    assert (page["kind"], page["status"]) == ("MeshUpgrade", 2)
    (change,) = (each for each in page["changes"] if each["action"] != "unchanged")
    assert (change["kind"], change["name"], change["namespace"]) == (
        *("deployments.apps", "meshproxy-control"),
        "meshproxy",
    )
    assert change["text"].startswith("--- live\n+++ applied\n")
    assert [each["level"] for each in page["dangers"]] == ["error", "error"]


def test_options_that_do_not_fit() -> None:
    result = run("--trust-domain", "/")
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_an_api_server_that_does_not_answer_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("connection refused", request=request)

    def connect(*_: object) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url="https://cluster.example", transport=httpx2.MockTransport(answer))

    monkeypatch.setattr("meshproxy.control.cluster.connect_paths", connect)
    result = run()
    assert (result.exit_code, result.stdout) == (2, "")
    why = "no answer (ConnectError: connection refused)"
    assert result.stderr == f"Error: {why}: look at --kubeconfig and --context: kubectl cluster-info\n"
