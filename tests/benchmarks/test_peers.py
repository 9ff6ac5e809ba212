"""What peers are configured with: our own must load, and Envoy's must say the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from benchmarks.credentials import make_credentials
from benchmarks.peers.envoy import Envoy, path_prefix
from benchmarks.peers.envoy_fields import (
    ENVOY_FIELDS,
    ENVOY_FIELDS_64M,
    FILTER,
    METHODS_WITH_A_MODEL,
    MODEL_FIELD,
    descriptor_set,
)
from benchmarks.peers.meshproxy import documents
from benchmarks.peers.peer import MODEL, Rules, Setting, SinkPorts
from benchmarks.peers.traces import ENVOY_TRACES, OWN_TRACES
from meshproxy.config.load import load


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(make_credentials(tmp_path), tmp_path, frozenset({0}), 8_501, 8_500, Rules(20, 10))


def test_the_sidecars_documents_load(setting: Setting) -> None:
    file = setting.folder / "sidecar.yaml"
    file.write_text(yaml.safe_dump_all(documents(setting, 18_500, 18_502)))
    load([file])


def test_spans_go_to_the_sink(setting: Setting) -> None:
    setting = replace(setting, sink=SinkPorts(4_318, 4_319, 4_320))
    file = setting.folder / "sidecar.yaml"
    endpoints = []
    for peer in OWN_TRACES:
        file.write_text(yaml.safe_dump_all(peer.documents(setting, 18_500, 18_502), sort_keys=False))
        traces = load([file]).mesh.spec.telemetry.traces
        assert traces is not None
        endpoints.append((traces.endpoint, traces.ratio, peer.exports))
    at = "http://127.0.0.1:431"
    assert endpoints == [(at + "8", 0.01, True)] * 2 + [(at + "9", 0.01, False), ("http://127.0.0.1:4320", 0.01, False)]
    configuration = ENVOY_TRACES.configuration(setting, 18_500)
    assert list(http_filters(configuration)) == list(http_filters(Envoy().configuration(setting, 18_500)))
    assert "http://127.0.0.1:4318/v1/traces" in json.dumps(configuration)
    assert configuration["static_resources"]["clusters"][-1]["name"] == "sink"


def http_filters(configuration: dict[str, Any]) -> dict[str, Any]:
    """The configuration of each HTTP filter, by name, in the order in which they see a request."""
    (listener,) = json.loads(json.dumps(configuration))["static_resources"]["listeners"]
    (chain,) = listener["filter_chains"]
    assert chain["transport_socket"]["typed_config"]["require_client_certificate"]
    (http,) = chain["filters"]
    return {found["name"]: found["typed_config"] for found in http["typed_config"]["http_filters"]}


def test_envoys_configuration_is_json_and_has_a_rule_for_every_rule(setting: Setting) -> None:
    filters = http_filters(Envoy().configuration(setting, 18_500))
    policies = filters["envoy.filters.http.rbac"]["rules"]["policies"]
    assert len(policies) == 20 + 1
    prefixes = [policy["permissions"][0]["url_path"]["path"]["prefix"] for policy in policies.values()]
    assert prefixes.count(f"/v1/models/{MODEL}:") == 2
    assert filters["envoy.filters.http.jwt_authn"]["providers"]["corp"]["jwt_cache_config"]


def test_envoy_with_fields_judges_grpc_by_the_model_that_it_has_extracted_before(setting: Setting) -> None:
    filters = http_filters(ENVOY_FIELDS.configuration(setting, 18_500))
    assert list(filters) == [
        "envoy.filters.http.jwt_authn",
        "envoy.filters.http.grpc_field_extraction",
        "envoy.filters.http.rbac",
        "envoy.filters.http.router",
    ]
    policies = filters["envoy.filters.http.rbac"]["rules"]["policies"]
    assert len(policies) == 20 + 20
    models = []
    for policy in policies.values():
        (permission,) = policy["permissions"]
        if "and_rules" in permission:
            service, field = permission["and_rules"]["rules"]
            assert service == path_prefix("/tensorflow.serving.PredictionService/")
            matcher = field["sourced_metadata"]["metadata_matcher"]
            assert (matcher["filter"], matcher["path"]) == (FILTER, [{"key": "model_spec.name"}])
            models.append(matcher["value"]["list_match"]["one_of"]["string_match"]["exact"])
    assert models == [setting.rules.model_of(number) for number in range(20)]


def test_only_the_variant_for_large_messages_may_hold_more_than_envoy_holds_by_default(setting: Setting) -> None:
    default, large = (peer.configuration(setting, 18_500) for peer in (ENVOY_FIELDS, ENVOY_FIELDS_64M))
    assert "request_body_buffer_limit" not in json.dumps(default)
    assert f'"request_body_buffer_limit": {64 * 2**20}' in json.dumps(large)


def test_the_descriptors_have_every_field_that_is_extracted() -> None:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(descriptor_set()).file:
        pool.Add(file)
    service = pool.FindServiceByName("tensorflow.serving.PredictionService")
    for method in METHODS_WITH_A_MODEL:
        found: Any = service.methods_by_name[method].input_type
        for name in MODEL_FIELD.split("."):
            field = found.fields_by_name[name]
            found = field.message_type
        assert field.type == field.TYPE_STRING
