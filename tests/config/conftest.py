"""Documents for tests: written out, read, and examined."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from meshproxy.config.examine import Examination, examine

Check = Callable[..., Examination]

HEAD = "apiVersion: meshproxy.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def document(kind: str, name: str, spec: str) -> str:
    """Four lines; `spec` in the flow style of YAML."""
    return HEAD.format(kind=kind, name=name, spec=spec)


def mesh(spec: str = "") -> str:
    return document("MeshConfig", "mesh", f"{{trustDomain: prod.example, mtls: permissive{spec}}}")


def sidecar() -> str:
    return document("Sidecar", "s", '{identity: {workloadApi: {socket: "unix:/a"}}, inbound: {server: local}}')


def server(spec: str = "") -> str:
    return document("ModelServer", "local", f'{{endpoints: [{{rest: "127.0.0.1:8501"}}]{spec}}}')


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """`examine` of documents in a file, `f.yaml`."""

    def run(*documents: str, is_partial: bool = False) -> Examination:
        file = tmp_path / "f.yaml"
        file.write_text("---\n".join(documents))
        return examine([str(file)], is_partial=is_partial)

    return run


def said(found: Examination, *codes: str) -> list[str]:
    """The problems with these codes, or all, without their folder."""
    return [
        f"{problem.line}: {problem.document}: {problem.field}: {problem.message}"
        for problem in found.problems
        if not codes or problem.code in codes
    ]


def codes(found: Examination) -> list[str]:
    """The names of all codes but the information about a part of a set."""
    return [problem.code.name for problem in found.problems if problem.code.name not in ("PARTIAL", "NO_ROLE")]
