"""What peers are configured with: our own must load, and Envoy's must say the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from benchmarks.credentials import make_credentials
from benchmarks.peers import envoy
from benchmarks.peers.meshproxy import documents
from benchmarks.peers.peer import MODEL, Rules, Setting
from meshproxy.config.load import load


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(make_credentials(tmp_path), tmp_path, frozenset({0}), 8_501, 8_500, Rules(20, 10))


def test_the_sidecars_documents_load(setting: Setting) -> None:
    file = setting.folder / "sidecar.yaml"
    file.write_text(yaml.safe_dump_all(documents(setting, 18_500, 18_502)))
    load([file])


def test_envoys_configuration_is_json_and_has_a_rule_for_every_rule(setting: Setting) -> None:
    configuration = json.loads(json.dumps(envoy.configuration(setting, 18_500)))
    (listener,) = configuration["static_resources"]["listeners"]
    (chain,) = listener["filter_chains"]
    (http,) = chain["filters"]
    filters = {found["name"]: found["typed_config"] for found in http["typed_config"]["http_filters"]}
    policies = filters["envoy.filters.http.rbac"]["rules"]["policies"]
    assert len(policies) == 20 + 1
    prefixes = [policy["permissions"][0]["url_path"]["path"]["prefix"] for policy in policies.values()]
    assert prefixes.count(f"/v1/models/{MODEL}:") == 2
    assert filters["envoy.filters.http.jwt_authn"]["providers"]["corp"]["jwt_cache_config"]
    assert chain["transport_socket"]["typed_config"]["require_client_certificate"]
