"""What nobody uses, and who is not authenticated."""

from __future__ import annotations

import msgspec
import pytest

from meshproxy.config.schema import ModelRole, ModelRoleBinding
from meshproxy.control_api import ReportedCaller
from meshproxy.view.findings import Findings, OpenCaller, findings, named_models
from meshproxy.view.mesh import Mesh
from tests.view.meshes import EVERY, calls, report

NOW = 1e9
FRAUD = "spiffe://mesh.test/ns/serving/sa/fraud"


def role(name: str, *models: str) -> ModelRole:
    spec = {"rules": [{"models": models, "verbs": ["predict"]}]}
    return msgspec.convert({"kind": "ModelRole", "metadata": {"name": name}, "spec": spec}, ModelRole)


def binding(name: str, of: str, action: str = "allow") -> ModelRoleBinding:
    spec = {"role": of, "action": action, "subjects": [{"workload": {"namespace": "a", "serviceAccount": "b"}}]}
    return msgspec.convert({"kind": "ModelRoleBinding", "metadata": {"name": name}, "spec": spec}, ModelRoleBinding)


DOCUMENTS = [role("all", "fraud", "idle", "x-*"), binding("readers", "all"), binding("others", "all")]


def found(*rows: object, documents: object = DOCUMENTS) -> Findings:
    mesh = Mesh()
    mesh.take(FRAUD, report(*rows), EVERY, NOW)  # type: ignore[arg-type]
    return findings(mesh.ring.window(3_600.0, NOW), mesh.reports(NOW), documents)  # type: ignore[arg-type]


def test_what_nobody_uses() -> None:
    result = found(calls())
    assert result.unused_models == ["idle"]
    assert [(each.binding, each.role, each.models) for each in result.unused_bindings] == [
        ("others", "all", ["fraud", "idle", "x-*"])
    ]
    assert (result.open_callers, result.is_complete) == ([], True)


def test_a_denied_call_uses_the_binding_that_denies_and_no_model() -> None:
    documents = [*DOCUMENTS, binding("never", "all", "deny"), binding("watch", "all", "audit")]
    denied = calls(codes={"403": 3}, allowed={}, denied={"never: permission_denied": 3})
    result = found(denied, documents=documents)
    assert result.unused_models == ["fraud", "idle"]
    assert [each.binding for each in result.unused_bindings] == ["others", "readers"]


def test_callers_without_mtls() -> None:
    plain = calls(ReportedCaller(address="10.0.0.7"), security="plaintext", count=3)
    assert found(calls(), plain).open_callers == [
        OpenCaller(caller="anonymous (10.0.0.7)", security="plaintext", models=["fraud"], calls=3)
    ]


def test_what_is_not_complete_says_so() -> None:
    mesh = Mesh()
    mesh.take(FRAUD, report(calls()), EVERY, NOW - 60.0)
    assert not findings(mesh.ring.window(3_600.0, NOW), mesh.reports(NOW), []).is_complete
    # Reports that were lost or could not be read are missing, too.
    for name in ("lost", "malformed"):
        mesh = Mesh()
        mesh.take(FRAUD, report(calls()), EVERY, NOW)
        assert findings(mesh.ring.window(3_600.0, NOW), mesh.reports(NOW), []).is_complete
        setattr(mesh.reporters, name, 1)
        assert not findings(mesh.ring.window(3_600.0, NOW), mesh.reports(NOW), []).is_complete


def test_globs_name_no_model() -> None:
    assert named_models([role("a", "x*", "b"), role("c", "b", "a")]) == ["a", "b"]


@pytest.mark.parametrize("documents", [[], [object()]])
def test_no_documents(documents: list[object]) -> None:
    assert found(calls(), documents=documents).unused_models == []
