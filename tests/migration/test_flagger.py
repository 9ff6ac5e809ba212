"""Canaries in the shape of Flagger's documentation (https://docs.flagger.app/usage/how-it-works)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from meshproxy.migration.flagger import canary
from meshproxy.migration.source import Kind, Translation, read_sources

CANARY = Path(__file__).with_name("canary.yaml").read_text()


def translate(change: dict[str, Any] | None = None, model: str | None = "fraud") -> Translation:
    """With other fields in `spec.analysis`, or in `spec` by a name with a dot before it."""
    document = yaml.safe_load(CANARY)
    for name, value in (change or {}).items():
        part = document["spec"] if name.startswith(".") else document["spec"]["analysis"]
        part[name.lstrip(".")] = value
    made = Translation()
    for _, _, source in read_sources("canary.yaml", yaml.safe_dump(document).encode(), made):
        canary(source, source.name, source.namespace, model, made)
    return made


def rollout(made: Translation) -> dict[str, Any]:
    (found,) = [each["spec"] for each in made.documents if each["kind"] == "ModelRollout"]
    return dict(found)


def notes(made: Translation) -> dict[str, Kind]:
    return {note.field: note.kind for note in made.notes}


def test_a_canary() -> None:
    made = translate()
    assert rollout(made) == {
        "model": "fraud",
        "stable": {"server": "podinfo-primary"},
        "candidate": {"server": "podinfo-canary"},
        "analysis": {
            "mode": "thresholds",
            "interval": "1m",
            "threshold": 10,
            "stepWeight": 5,
            "maxWeight": 50,
            "metrics": [
                {"name": "request-success-rate", "thresholdRange": {"min": 99}},
                {"name": "request-duration", "thresholdRange": {"max": 500}},
            ],
        },
        "progressDeadline": "60s",
    }
    assert made.documents[0]["spec"] == {"dns": {"name": "podinfo-primary.test.svc.cluster.local", "rest": 9898}}
    found = notes(made)
    assert found["spec.autoscalerRef"] is Kind.LEFT_OUT
    assert found["spec.analysis.metrics[2].name"] is Kind.LEFT_OUT
    assert found["spec.analysis.webhooks[0].url"] is Kind.REFUSED  # plain http
    assert found["spec.analysis.webhooks[1]"] is Kind.LEFT_OUT  # of type rollout, which is the default
    assert found["spec.progressDeadlineSeconds"] is Kind.DIFFERENT


def test_gates_steps_and_cookies() -> None:
    gate = {"name": "gate", "type": "confirm-promotion", "url": "https://ops.example/gate", "metadata": {"a": 1}}
    made = translate(
        {
            "webhooks": [gate, {"name": "back", "type": "rollback", "url": "https://ops.example/back"}],
            "stepWeights": [1, 5, 20],
            "sessionAffinity": {"cookieName": "flagger", "maxAge": 3600},
            "threshold": 0,
            "iterations": 10,
            ".suspend": True,
        }
    )
    spec = rollout(made)
    assert spec["webhooks"] == [{**gate, "metadata": {"a": "1"}}]
    assert spec["analysis"]["stepWeights"] == [1, 5, 20]
    assert spec["sticky"] == {"by": "cookie", "cookie": {"name": "flagger", "ttl": "3600s"}}
    assert (spec["analysis"]["threshold"], spec["paused"]) == (1, True)
    assert notes(made)["spec.analysis.iterations"] is Kind.LEFT_OUT


def test_what_is_assumed_is_said() -> None:
    made = translate(
        {".service": {"portName": "grpc"}, "metrics": [{"name": "request-duration", "threshold": 5}]}, None
    )
    assert rollout(made)["model"] == "podinfo"
    assert rollout(made)["analysis"]["metrics"] == [{"name": "request-duration", "thresholdRange": {"max": 5}}]
    assert made.documents[0]["spec"]["dns"]["grpc"] == 8501
    assert any("--model gives it" in note.why for note in made.notes)


def test_no_spec() -> None:
    made = Translation()
    for _, _, source in read_sources("x", b"kind: Canary\nmetadata: {name: a}\n", made):
        canary(source, source.name, "n", None, made)
    assert (made.documents, [note.kind for note in made.notes]) == ([], [Kind.REFUSED])
