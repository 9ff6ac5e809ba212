"""What is wrong with a rollout because of other documents."""

from __future__ import annotations

from tests.config.test_check import MESH, SERVER, SIDECAR, problems

ROLLOUT = "kind: ModelRollout\nmetadata: {name: %s}\nspec:\n  model: fraud\n  stable: {version: 3}\n  candidate: {%s}\n"
ONE = ROLLOUT % ("one", "version: 4")


def route(name: str, models: str, *, split: bool, match: bool = False, directions: str = "inbound") -> str:
    text = f"kind: ModelRoute\nmetadata: {{name: {name}}}\nspec:\n  models: [{models}]\n  directions: [{directions}]\n"
    text += "  split: [{version: 1}]\n" if split else ""
    return text + ("  match: [{headers: {a: b}}]\n" if match else "")


def found(*texts: str) -> list[str]:
    return problems(MESH, SIDECAR, SERVER, *texts)


def test_one_rollout_alone() -> None:
    assert found(ONE) == []


def test_arms_whose_server_does_not_exist() -> None:
    (problem,) = found(ROLLOUT % ("one", "server: locol"))
    assert 'ModelRollout/one: spec.candidate.server: no ModelServer named "locol" (did you mean' in problem


def test_a_second_rollout_of_a_model() -> None:
    (problem,) = found(ONE, ROLLOUT % ("two", "version: 5"))
    assert 'ModelRollout/two: spec.model: "fraud" already has a rollout, ModelRollout/one at f:13: finish' in problem
    # Sidecars of applications choose where the server is one of several: those are other calls.
    assert found(ONE, ROLLOUT % ("two", "server: local")) == []


def test_a_route_that_splits_the_same_calls() -> None:
    (problem,) = found(ONE, route("r", "fraud", split=True))
    assert "ModelRoute/r at f:20 has a split" in problem
    assert found(ONE, route("r", '"fr*"', split=True)) != []
    assert found(ONE, route("r", "fraud", split=True, match=True)) != []


def test_routes_that_split_other_calls() -> None:
    assert found(ONE, route("r", "other", split=True)) == []
    assert found(ONE, route("r", "fraud", split=True, directions="outbound")) == []
    assert found(ONE, route("r", "fraud", split=False)) == []
    assert found(ONE, route("r", '"*"', split=True), route("s", "fraud", split=False)) == []


def test_versions_that_a_server_cannot_have() -> None:
    server = "kind: ModelServer\nmetadata: {name: canary}\nspec: {health: {check: model-status}}\n"
    (problem,) = found(ROLLOUT % ("one", "server: canary, version: next"), server)
    assert 'spec.candidate.version: "next" is no version of ModelServer/canary' in problem
