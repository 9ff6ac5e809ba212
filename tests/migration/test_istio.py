"""VirtualServices and DestinationRules in the shape of Istio's reference (https://istio.io/latest/docs/reference/)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from meshproxy.migration.istio import destination_rule, server_name, virtual_service
from meshproxy.migration.source import Kind, Translation, read_sources

FILE = Path(__file__).with_name("istio.yaml")


def translate(*documents: dict[str, Any]) -> Translation:
    made = Translation()
    text = yaml.safe_dump_all(documents).encode()
    for _, kind, source in read_sources("istio.yaml", text, made):
        if kind == "VirtualService":
            virtual_service(source, source.name, "serving", made)
        elif kind == "DestinationRule":
            destination_rule(source, "serving", made)
    return made


def specs(made: Translation, kind: str) -> dict[str, Any]:
    return {each["metadata"]["name"]: each["spec"] for each in made.documents if each["kind"] == kind}


def route(**fields: Any) -> dict[str, Any]:
    http = {"route": [{"destination": {"host": "models"}}], **fields}
    return {"kind": "VirtualService", "metadata": {"name": "r"}, "spec": {"hosts": ["models"], "http": [http]}}


def rule(**policy: Any) -> dict[str, Any]:
    spec = {"host": "models", "trafficPolicy": policy}
    return {"kind": "DestinationRule", "metadata": {"name": "models"}, "spec": spec}


def test_the_documents_of_the_file() -> None:
    made = translate(*yaml.safe_load_all(FILE.read_text()))
    routes, servers = specs(made, "ModelRoute"), specs(made, "ModelServer")
    assert routes["fraud-1"]["match"] == [{"headers": {"end-user": "jason", "x-beta": {"present": True}}}]
    assert routes["fraud-1"]["server"] == "models-v2"
    assert routes["fraud-2"]["split"] == [{"server": "models-v1", "weight": 90}, {"server": "models-v2", "weight": 10}]
    assert routes["fraud-2"]["retries"]["attempts"] == 4
    assert routes["fraud-2"]["mirror"] == {"server": "models-v3", "percent": 5.0}
    assert set(servers) == {"models", "models-v1", "models-v2", "models-v3"}
    assert servers["models-v1"]["breaker"] == {"consecutiveFailures": 7}
    assert servers["models-v1"]["ejection"]["maxTime"] == "15m"
    assert servers["models-v2"]["balancing"]["key"] == {"by": "header", "header": "x-user"}
    fields = {note.field: note.kind for note in made.notes}
    assert fields["spec.subsets[0].labels"] is Kind.LEFT_OUT
    assert fields["spec.http[1].corsPolicy"] is Kind.LEFT_OUT


@pytest.mark.parametrize(
    ("match", "models"),
    [
        (None, ["*"]),
        ({"headers": {"a": {"prefix": "b"}}}, ["*"]),
        ({"uri": {"exact": "/v1/models/m:predict"}}, ["m"]),
        ({"uri": {"prefix": "/v1/models/m"}}, ["m*"]),
        ({"uri": {"prefix": "/v1/models/m/"}}, ["m"]),
        ({"uri": {"prefix": "/"}}, ["*"]),
        ({"uri": {"exact": "/tensorflow.serving.PredictionService/Predict"}}, ["*"]),
    ],
)
def test_models(match: dict[str, Any] | None, models: list[str]) -> None:
    made = translate(route(match=[match]) if match is not None else route())
    assert specs(made, "ModelRoute")["r"]["models"] == models


def test_paths_that_are_of_no_model() -> None:
    for uri in ({"regex": "/v1/.*"}, {"prefix": "/reviews"}, {"exact": "/v1/models/"}):
        made = translate(route(match=[{"uri": uri, "port": 80}]))
        assert specs(made, "ModelRoute") == {}
        assert Kind.REFUSED in {note.kind for note in made.notes}


def test_retries_of_every_sort() -> None:
    made = translate(route(retries={"attempts": 0, "retryOn": "5xx,cancelled,retriable-status-codes,429"}))
    retries = specs(made, "ModelRoute")["r"]["retries"]
    assert retries["attempts"] == 1
    assert retries["reasons"] == ["gateway-error", "reset", "connect-failure", "refused-stream"]
    timed = translate(route(retries={"attempts": 1, "retryOn": "5xx", "perTryTimeout": "2s"}))
    assert specs(timed, "ModelRoute")["r"]["retries"]["reasons"][-1] == "timeout"
    assert (retries["grpcStatuses"], retries["httpStatuses"]) == (["CANCELLED"], [500, 429])


def test_balancing_and_outliers() -> None:
    cookie = {"name": "user", "ttl": "0s"}
    made = translate(
        rule(
            loadBalancer={"consistentHash": {"httpCookie": cookie}, "warmupDurationSecs": "30s"},
            outlierDetection={"consecutiveGatewayErrors": 0, "baseEjectionTime": "x"},
            tls={"mode": "ISTIO_MUTUAL"},
        )
    )
    spec = specs(made, "ModelServer")["models"]
    assert spec["balancing"] == {"policy": "ring-hash", "key": {"by": "cookie", "cookie": cookie}, "warmUp": "30s"}
    assert {note.field.rpartition(".")[2] for note in made.notes} == {
        "consecutiveGatewayErrors",
        "baseEjectionTime",
        "mode",
    }
    made = translate(rule(loadBalancer={"simple": "PASSTHROUGH"}, tls={"mode": "DISABLE"}))
    assert [note.kind for note in made.notes] == [Kind.LEFT_OUT, Kind.DIFFERENT]


def test_what_is_refused() -> None:
    for document in (
        {"kind": "VirtualService", "metadata": {"name": "a"}, "spec": {"tcp": []}},
        {"kind": "DestinationRule", "metadata": {"name": "a"}, "spec": {"host": "*.local"}},
        {"kind": "DestinationRule", "metadata": {"name": "a"}},
    ):
        made = translate(document)
        assert (made.documents, [note.kind for note in made.notes]) == ([], [Kind.REFUSED])


def test_a_route_that_goes_to_no_server_is_no_route_here() -> None:
    """One of all models would be left, without anything that it does."""
    for field, value in (("redirect", {"uri": "/"}), ("directResponse", {"status": 503}), ("delegate", {"name": "x"})):
        document = route()
        document["spec"]["http"].insert(0, {"match": [{"uri": {"prefix": "/v1/models/m"}}], field: value})
        made = translate(document)
        assert list(specs(made, "ModelRoute")) == ["r-2"]
        assert [(note.field, note.kind) for note in made.notes] == [(f"spec.http[0].{field}", Kind.REFUSED)]


def test_a_mirror_to_a_server_that_has_a_share() -> None:
    shares = [{"destination": {"host": host}, "weight": 50} for host in ("a", "b")]
    made = translate(route(route=shares, mirror={"host": "b"}))
    assert specs(made, "ModelRoute")["r"]["mirror"] == {"server": "b"}
    assert [(note.field, note.kind) for note in made.notes] == [("spec.http[0].mirror", Kind.DIFFERENT)]
    assert translate(route(route=shares, mirror={"host": "c"})).notes == []


def test_of_several_mirrors_the_first_is_written() -> None:
    mirrors = [{"destination": {"host": host}, "percentage": {"value": 5}} for host in ("a", "b")]
    made = translate(route(mirrors=mirrors))
    assert specs(made, "ModelRoute")["r"]["mirror"] == {"server": "a", "percent": 5}
    assert [(note.field, note.kind) for note in made.notes] == [("spec.http[0].mirrors[1]", Kind.LEFT_OUT)]


def test_names_of_servers() -> None:
    assert server_name("models.serving.svc.cluster.local", "v1") == "models-v1"
    assert server_name("My_Host", None) == "my-host"
    assert server_name("*", None) == "server"
