"""The third part of the demo."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from meshproxy.audit.lines import Kind, read_line
from meshproxy.audit.verify import Verifier
from meshproxy.devtools import demo_control
from meshproxy.devtools.demo_mesh import APPLICATION, SERVER, TRUST_DOMAIN
from meshproxy.devtools.load.generator import Run
from meshproxy.devtools.local_mesh import local_mesh
from meshproxy.devtools.managed_mesh import ManagedMesh


class Rotating:
    """A mesh whose certificates are renewed during one of the steps of load."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, at: int, errors: int = 0) -> None:
        self.steps = 0
        self.at = at

        async def load(mesh: Any, seconds: float) -> list[Run]:
            self.steps += 1
            run = Run(100.0, done=10)
            run.latencies.extend([0.001, 0.004])
            if errors and self.steps == 1:
                run.errors = Counter({"UNAVAILABLE": errors})
            return [run, Run(100.0, done=10)]

        monkeypatch.setattr(demo_control, "_load", load)

    def rotations(self) -> int:
        return 3 + (self.steps >= self.at)


async def test_load_goes_on_until_the_certificates_were_renewed_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh: Any = Rotating(monkeypatch, at=3)
    scene = await demo_control.rotation(mesh)
    assert mesh.steps == 4
    assert (scene.calls, scene.failed, scene.problem) == (80, 0, "")
    assert scene.seen.startswith("both rotated within 0.0 s; longest 4 ms")


async def test_calls_that_fail_meanwhile_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh: Any = Rotating(monkeypatch, at=1, errors=2)
    scene = await demo_control.rotation(mesh)
    assert (scene.failed, scene.problem) == (2, "2 calls failed: UNAVAILABLE")


async def test_a_certificate_that_is_not_renewed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh: Any = Rotating(monkeypatch, at=1_000_000)
    scene = await demo_control.rotation(mesh, patience=0.01)
    assert scene.problem == "not both certificates were renewed within 0.01 s"


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_the_scenes_come_out_as_they_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that need not wait for a certificate: a drill sees one rotate."""
    async with local_mesh(tmp_path / "mesh", TRUST_DOMAIN, server=SERVER, client=APPLICATION) as local:
        server = await local.bare("--model=half_plus_two=1")
        mesh = await ManagedMesh.start(local, server.rest, server.grpc, lifetime=3_600.0)
        scene = await demo_control.role(mesh)
        print(scene)
        assert (scene.calls, scene.failed, scene.problem) == (3, 0, "")
        assert scene.seen.startswith("answers 200, 403, 200; in sync in ")
        scene = await demo_control.explained(mesh)
        print(scene)
        assert (scene.seen, scene.problem) == ('DENY predict on model "half_plus_two"; by default-deny', "")
        scene = await demo_control.trail(mesh)
        print(scene)
        assert scene.problem == ""
        who = "spiffe://demo.example/ns/shop/sa/checkout from 127.0.0.1:"
        assert " was deleted" in scene.seen
        assert who in scene.seen
        assert "was denied to predict half_plus_two (by default-deny; permission-denied)" in scene.seen
        scene = await demo_control.rollback(mesh)
        print(scene)
        assert scene.problem == ""
        assert 0 < scene.failed <= demo_control.MOST_LOST
        scene = await demo_control.away(mesh)
        print(scene)
        assert (scene.failed, scene.problem) == (0, "")
        assert scene.calls == 2 * demo_control.RATE * 1.5
        assert mesh.rotations() == 0
        kinds = [record.kind for record in map(read_line, demo_control.whole_lines(mesh.trails[0]))]
        assert kinds.count(Kind.CONTINUED) == 1  # it was killed
        verifier = Verifier([mesh.audit_key])
        verifier.read("control", demo_control.whole_lines(mesh.trails[0]))
        verifier.finish()
        (chain,) = verifier.chains.values()
        assert (verifier.problems, len(chain.killed)) == ([], 1)
        mesh.trails[0].write_bytes(mesh.trails[0].read_bytes().replace(b"/checkout", b"/checking", 1))
        assert "changed: the line after it holds another hash" in (await demo_control.trail(mesh)).problem

        # What goes wrong is noticed.
        async def nothing(self: ManagedMesh, *, binds: bool) -> None:
            """The policy stays."""

        monkeypatch.setattr(ManagedMesh, "edit_policy", nothing)
        scene = await demo_control.role(mesh)
        assert (scene.failed, scene.problem) == (1, "answers 200, 200, 200, expected 200, 403, 200")
