"""deploy/kubernetes/scaling against the pages of a sidecar and the manifest whose replicas it is about."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from lightkube.models.autoscaling_v2 import HorizontalPodAutoscalerSpec
from lightkube.models.core_v1 import ServiceSpec
from prometheus_client.parser import text_string_to_metric_families

from meshproxy.telemetry.exposition import render
from meshproxy.telemetry.scaling import Scaling
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from tests.promql import problems, read
from tests.telemetry.test_scaling import request

FOLDER = Path(__file__).parents[1] / "deploy" / "kubernetes"
ADMIN = 18502
METRICS_API = {
    "url", "format", "valueLocation", "targetValue", "activationTargetValue", "aggregateFromKubeServiceEndpoints",
    "aggregationType", "unsafeSsl", "timeout",
}  # fmt: skip
PROMETHEUS = {"serverAddress", "query", "threshold", "activationThreshold", "ignoreNullValues", "unsafeSsl", "timeout"}
"""Parameters of KEDA's scalers, as in the documentation of KEDA 2.20."""


def objects(name: str) -> dict[str, Any]:
    """Those of a file, by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((FOLDER / name).read_text())}


TRIGGERS = [
    pytest.param(trigger, id=path.stem)
    for path in sorted((FOLDER / "scaling").glob("keda*.yaml"))
    for trigger in objects(f"scaling/{path.name}")["ScaledObject"]["spec"]["triggers"]
]


@pytest.fixture
def pages() -> dict[str, str]:
    """What a sidecar answers whose model server has calls of `fraud`, limited to 5."""
    metrics = SidecarMetrics()
    metrics.requests.mention(["fraud"])
    admission = SimpleNamespace(limit=SimpleNamespace(current=5), waiting=0)
    pipeline: Any = SimpleNamespace(live=set(), admissions=SimpleNamespace(rows=lambda: [("r", "fraud", admission)]))
    clock = iter([0.0, *[10.0] * 20])
    scaling = Scaling(metrics.registry, metrics.requests, pipeline, lambda: next(clock))
    metrics.requests.observe(request("fraud", 0.0, 10.0))
    return {
        "/scaling": json.dumps(scaling.page()),
        "/metrics": b"".join(render(metrics.registry)).decode(),
    }


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_keda_finds_a_number(trigger: dict[str, Any], pages: dict[str, str]) -> None:
    metadata = trigger["metadata"]
    assert all(isinstance(value, str) for value in metadata.values())
    if trigger["type"] == "prometheus":
        assert metadata.keys() <= PROMETHEUS
        assert problems(metadata["query"]) == []
        return
    assert metadata.keys() <= METRICS_API
    url = urlsplit(metadata["url"])
    page, location = pages[url.path], metadata["valueLocation"]
    assert not url.query  # it is dropped
    if metadata["format"] == "json":
        value = json.loads(page)
        for part in location.split("."):
            value = value[part]
        assert value == 1.0
    else:
        labels = dict(re.findall(r'(\w+)="(.*?)"', location))
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        ((name, _),) = read(location).series
        assert [each.value for each in samples if each.name == name and each.labels == labels] == [0.2]
    # A sum is divided by the replicas, a mean is not divided once more.
    assert (metadata["aggregationType"], trigger["metricType"]) in {("sum", "AverageValue"), ("average", "Value")}


def test_keda_finds_the_pods() -> None:
    found, manifest = objects("scaling/keda.yaml"), objects("tensorflow-serving.yaml")
    service, scaled = found["Service"], found["ScaledObject"]
    assert ServiceSpec.from_dict(service["spec"]).to_dict() == service["spec"]  # no field is unknown
    url = urlsplit(scaled["spec"]["triggers"][0]["metadata"]["url"])
    assert url.hostname == f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
    (port,) = service["spec"]["ports"]
    assert url.port == port["targetPort"] == ADMIN
    pod = manifest["Deployment"]["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    ports = [each["containerPort"] for part in pod["spec"]["initContainers"] for each in part["ports"]]
    assert ADMIN in ports
    for name in ("keda", "keda-saturation", "keda-prometheus"):
        target = objects(f"scaling/{name}.yaml")["ScaledObject"]
        assert target["spec"]["scaleTargetRef"]["name"] == manifest["Deployment"]["metadata"]["name"]
        assert target["metadata"]["namespace"] == manifest["Deployment"]["metadata"]["namespace"]


def test_the_adapter_has_the_metric_that_the_autoscaler_asks_for() -> None:
    found, manifest = objects("scaling/prometheus-adapter.yaml"), objects("tensorflow-serving.yaml")
    rules = yaml.safe_load(found["ConfigMap"]["data"]["values.yaml"])["rules"]["custom"]
    names = set()
    for rule in rules:
        assert rule.keys() == {"seriesQuery", "resources", "name", "metricsQuery"}
        assert problems(rule["seriesQuery"]) == []
        ((series, _),) = read(rule["seriesQuery"]).series
        query = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.GroupBy>>", "pod")
        assert problems(query.replace("<<.LabelMatchers>>", 'namespace="serving",pod=~"a|b",model="fraud"')) == []
        names.add(rule["name"]["as"])
    scaler = found["HorizontalPodAutoscaler"]["spec"]
    assert HorizontalPodAutoscalerSpec.from_dict(scaler).to_dict() == scaler  # no field is unknown
    assert {metric["pods"]["metric"]["name"] for metric in scaler["metrics"]} <= names
    assert scaler["scaleTargetRef"]["name"] == manifest["Deployment"]["metadata"]["name"]
