from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from meshproxy.cli.demo import command
from meshproxy.devtools import demo, demo_control, demo_mesh, demo_outbound, managed_mesh
from meshproxy.devtools.child import ChildFailed
from meshproxy.devtools.clients import Answer


def sidecar(output: str) -> SimpleNamespace:
    return SimpleNamespace(inbound="h:1", outbound="h:2", admin="h:3", child=SimpleNamespace(last_output=[output]))


MANAGED = SimpleNamespace(
    web="127.0.0.1:1",
    replica=sidecar("what the managed replica wrote"),
    application=sidecar("what the managed application wrote"),
)
MESH = SimpleNamespace(
    local=None,
    rest="h:4",
    grpc="h:5",
    sidecar=sidecar("what the sidecar wrote"),
    application=sidecar("what the application's sidecar wrote"),
)
"""Enough of a DemoMesh for what is printed."""


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> list[demo.Result]:
    """What the demo's calls come out as; the mesh is a fake."""
    made: list[demo.Result] = []

    @asynccontextmanager
    async def fake_mesh(
        directory: Path, models: Sequence[str], clients: Mapping[str, Sequence[str]]
    ) -> AsyncIterator[SimpleNamespace]:
        yield MESH

    async def fake_run(mesh: Any) -> AsyncIterator[demo.Result]:
        for result in made:
            yield result

    async def fake_scenes(mesh: Any) -> AsyncIterator[demo_outbound.Scene]:
        for scene in SCENES:
            yield scene

    async def fake_last(mesh: Any) -> AsyncIterator[demo_outbound.Scene]:
        assert mesh is MANAGED
        for scene in LAST:
            yield scene

    async def start(local: Any, rest: str, grpc: str) -> SimpleNamespace:
        assert (rest, grpc) == (MESH.rest, MESH.grpc)
        return MANAGED

    async def heard(rest: str) -> dict[str, int]:
        return {"half_plus_two": 3}

    async def lines(mesh: Any) -> list[str]:
        return ['meshproxy_requests_total{model="half_plus_two"} 3']

    monkeypatch.setattr(demo_mesh, "demo_mesh", fake_mesh)
    monkeypatch.setattr(demo, "run", fake_run)
    monkeypatch.setattr(demo, "requested_models", heard)
    monkeypatch.setattr(demo, "metric_lines", lines)
    monkeypatch.setattr(demo_outbound, "run", fake_scenes)
    monkeypatch.setattr(demo_outbound, "metric_lines", lines)
    monkeypatch.setattr(demo_control, "run", fake_last)
    monkeypatch.setattr(managed_mesh.ManagedMesh, "start", start)
    monkeypatch.setattr(sys.modules[__name__], "SCENES", [scene("")])
    monkeypatch.setattr(sys.modules[__name__], "LAST", [scene("")])
    return made


SCENES: list[demo_outbound.Scene] = []
"""What the second part comes out as."""
LAST: list[demo_outbound.Scene] = []
"""And the third."""


def scene(problem: str) -> demo_outbound.Scene:
    return demo_outbound.Scene("a replica is killed", 1_500, 2 if problem else 0, "retried 4", problem)


def permitted(problem: str) -> demo.Result:
    log = {"path": "/v1/models/half_plus_two:predict", "policy": "finance-team"}
    return demo.Result(demo.ROWS[0], Answer("200", None, {}, 0.001), log, 0.25, problem)


def test_all_well_is_0(results: list[demo.Result]) -> None:
    results.append(permitted(""))
    said = CliRunner().invoke(command, [])
    assert said.exit_code == 0
    assert "All 3,001 calls had the expected result" in said.output
    assert "retried 4" in said.output
    assert "$ meshproxy proxy-status --control 127.0.0.1:1\n× control plane 127.0.0.1:1: nothing answers" in said.output
    assert "+0.25" in said.output
    assert "It was never asked for payroll." in said.output
    assert 'meshproxy_requests_total{model="half_plus_two"} 3' in said.output
    assert '"policy": "finance-team"' in said.output


def test_a_row_that_is_not_as_expected_is_named_and_is_1(results: list[demo.Result]) -> None:
    results += [permitted(""), permitted("status 503, expected 200")]
    said = CliRunner().invoke(command, [])
    assert said.exit_code == 1
    assert "NOT AS EXPECTED, row 2: status 503, expected 200" in said.output
    assert "what the sidecar wrote" in said.output


def test_a_scene_that_is_not_as_expected_is_named_and_is_1(results: list[demo.Result]) -> None:
    results.append(permitted(""))
    SCENES[:] = [scene(""), scene("2 calls failed: UNAVAILABLE")]
    said = CliRunner().invoke(command, [])
    assert said.exit_code == 1
    assert "NOT AS EXPECTED, row 3: 2 calls failed: UNAVAILABLE" in said.output
    assert "what the application's sidecar wrote" in said.output


def test_so_is_one_of_the_third_part(results: list[demo.Result]) -> None:
    results.append(permitted(""))
    LAST[:] = [scene("no certificate was renewed within 20 s")]
    said = CliRunner().invoke(command, [])
    assert said.exit_code == 1
    assert "NOT AS EXPECTED, row 3: no certificate was renewed within 20 s" in said.output
    assert "what the managed replica wrote" in said.output
    assert "what the managed application wrote" in said.output


def test_a_model_server_that_heard_of_the_secret_model_is_1(
    results: list[demo.Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def heard(rest: str) -> dict[str, int]:
        await asyncio.sleep(0)
        return {demo.SECRET_MODEL: 1}

    monkeypatch.setattr(demo, "requested_models", heard)
    results.append(permitted(""))
    said = CliRunner().invoke(command, [])
    assert said.exit_code == 1
    assert "NOT AS EXPECTED, the model server was asked for payroll" in said.output


def test_a_part_that_does_not_start_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise ChildFailed("the sidecar ended with 1; its last output:\nno luck")

    monkeypatch.setattr(demo_mesh, "demo_mesh", fail)
    said = CliRunner().invoke(command, [])
    assert said.exit_code == 1
    assert "Error: the sidecar ended with 1" in said.output


def test_without_its_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    said = CliRunner().invoke(command, [])
    assert said.exit_code == 1
    assert "pipx install --force '.[control,demo]'" in said.output
