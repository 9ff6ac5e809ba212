"""deploy/README.md: what it says about containers is done, word by word: the image with Podman behind the name of
Docker, the Compose file with Docker, and stand-ins for the images of others.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml

from meshproxy import __version__
from meshproxy.devtools.local_mesh import replace_documents
from tests import pages
from tests.containers.conftest import REPOSITORY, Engine
from tests.containers.docker import Docker
from tests.processes.waiting import look_until

COMPOSE = ("docker", "compose", "-f", "deploy/docker-compose.yaml")
BASH = ("bash", "-euo", "pipefail", "-c")
CALL = ("curl", "--silent", "--show-error", "--write-out", "\n%{http_code}", "--data", '{"instances": [1, 2, 5]}')
URL = "http://localhost:18501/v1/models/half_plus_two:predict"
PREDICTED = {"predictions": [2.5, 3.0, 4.5]}
PATIENCE = 120.0
"""Seconds that a change of documents, or a scrape, may take."""


def commands(section: str) -> list[str]:
    """The commands of a section of the page, block by block."""
    page = (REPOSITORY / "deploy" / "README.md").read_text()
    return [block.text for block in pages.blocks(pages.section(page, section), "sh")]


@dataclass(frozen=True)
class Page:
    """The mesh that the page starts, from a copy of deploy/ whose documents a test may edit.

    Attributes:
        wrote: what each block wrote, without the last one, which removes the mesh.
    """

    docker: Docker
    folder: Path
    wrote: list[str]

    def compose(self, *command: str) -> str:
        return self.docker.run(*COMPOSE, *command, folder=self.folder)

    def call(self) -> int:
        """The status of a call of the application."""
        return int(self.docker.run(*CALL, URL).rpartition("\n")[2])


@pytest.fixture(scope="module")
def page(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("compose")
    shutil.copytree(REPOSITORY / "deploy", folder / "deploy")
    shutil.copy(REPOSITORY / "Makefile", folder)
    *blocks, last = commands("Compose")
    try:
        yield Page(docker, folder, [docker.run(*BASH, block, folder=folder) for block in blocks])
    finally:
        docker.run(*BASH, last, folder=folder)
    for kind in (["ps", "--all"], ["volume", "ls"]):
        assert docker.run("docker", *kind, "--quiet") == ""


def answer(wrote: str) -> object:
    """The JSON at the end of an output."""
    return json.loads(wrote[wrote.index("{") :])


def test_the_commands_about_the_image(engine: Engine) -> None:
    (block,) = commands("The image")
    wrote = engine.run(*BASH, block)
    assert f"meshproxy {__version__} " in wrote
    assert "CycloneDX" in wrote


def test_the_commands_about_the_mesh(page: Page) -> None:
    started, with_token, looked, measured, _, development = page.wrote
    # Ready is ready: the first call is answered.
    assert answer(started) == answer(with_token) == answer(development) == PREDICTED
    assert "http://localhost:9090" in started
    assert "0 errors" in looked
    assert looked.count("in-sync") >= 2
    assert "state       READY" in looked
    assert measured.count('"status":"success"') == 2


def wait_for_status(page: Page, wanted: int) -> None:
    def look() -> int:
        status = page.call()
        assert status in (200, 403)
        return status

    look_until(look, lambda status: status == wanted, PATIENCE)


def test_documents_are_in_force_as_soon_as_they_are_saved(page: Page) -> None:
    file = page.folder / "deploy" / "compose" / "documents" / "policy.yaml"
    before = list(yaml.safe_load_all(file.read_text()))
    assert page.call() == 200
    replace_documents(file, [each for each in before if each["metadata"]["name"] != "checkout"])
    wait_for_status(page, 403)
    replace_documents(file, before)
    wait_for_status(page, 200)


def test_wrong_documents_are_kept_out_and_shown(page: Page) -> None:
    file = page.folder / "deploy" / "compose" / "documents" / "policy.yaml"
    before = list(yaml.safe_load_all(file.read_text()))
    wrong = [each | {"spec": each["spec"] | {"role": "nobody"}} for each in before if "role" in each["spec"]]
    replace_documents(file, wrong)
    look = partial(page.compose, "exec", "control", "sh", "-c")
    said = look_until(lambda: look("meshproxy check || true"), lambda said: "nobody" in said, PATIENCE)
    assert "1 error," in said
    assert page.call() == 200
    replace_documents(file, before)
    look_until(lambda: look("meshproxy check >&2 && echo well || true"), lambda said: said == "well\n", PATIENCE)


def query(page: Page, words: str) -> dict[str, float]:
    """The values that Prometheus gives, by instance."""
    wrote = page.docker.run(
        "curl", "--silent", "--fail", "--data-urlencode", f"query={words}", "http://localhost:9090/api/v1/query"
    )
    return {each["metric"]["instance"]: float(each["value"][1]) for each in json.loads(wrote)["data"]["result"]}


def test_prometheus_reads_both_sidecars_and_the_control_plane(page: Page) -> None:
    assert page.call() == 200
    calls = 'sum by (instance) (meshproxy_requests_total{model="half_plus_two"})'
    both = {"replica:18502", "application:18502"}
    look_until(lambda: query(page, calls), lambda found: found.keys() == both, PATIENCE)
    up = {"replica:18502": 1, "application:18502": 1, "control:18512": 1}
    look_until(lambda: query(page, "up"), lambda found: found == up, PATIENCE)
    in_sync = 'meshproxy_control_sidecars{state="in-sync"}'
    look_until(lambda: query(page, in_sync), lambda found: found == {"control:18512": 2}, PATIENCE)


def test_both_sidecars_export_their_spans(page: Page) -> None:
    assert page.call() == 200
    (log,) = [block for block in commands("Compose") if " logs " in block]

    def look() -> str:
        return page.docker.run(*BASH, log, folder=page.folder)

    def is_whole(said: str) -> bool:
        """Each sidecar exports in its own time."""
        both = all(f"meshproxy.direction: Str({direction})" in said for direction in ("inbound", "outbound"))
        return both and said.count("POST /v1/models/{model}:predict") >= 4

    look_until(look, is_whole, PATIENCE)


def test_sidecars_start_again_with_the_certificates_that_they_have(page: Page) -> None:
    page.compose("restart", "replica", "application")
    page.compose("up", "--detach", "--wait")
    assert page.call() == 200


def test_sidecars_without_certificates_join_again(page: Page) -> None:
    """As after a laptop was closed for longer than they are valid."""
    page.compose("rm", "--stop", "--force", "replica", "application", "model-server", "issuer")
    page.docker.run("docker", "volume", "rm", "meshproxy_replica", "meshproxy_application")
    page.compose("up", "--detach", "--wait")
    assert page.call() == 200


def test_every_container_is_restricted(page: Page) -> None:
    for name in page.compose("ps", "--all", "--quiet").split():
        (container,) = json.loads(page.docker.run("docker", "inspect", name))
        host = container["HostConfig"]
        assert container["Config"]["User"] in ("65532:65532", "nobody")
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert {each["HostIp"] for port in host["PortBindings"].values() for each in port} <= {"127.0.0.1"}
