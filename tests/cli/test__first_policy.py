"""The first documents of a mesh: whatever was answered, they say that and nothing else. They are tested as written in
test__config_init.py."""

from __future__ import annotations

import pytest
import yaml

from meshproxy.cli._first_policy import HEAD, SCHEMA_FILE, Answers, files


@pytest.mark.parametrize("model", ["fraud", "on", "0123", "a: b", 'say "x"', "*", "# no"])
def test_answers_are_quoted(model: str) -> None:
    made = files(Answers("prod.example", model, "payments", "check-out", None, ""))
    role, binding = yaml.safe_load_all(made["policy.yaml"])
    assert role["spec"]["rules"][0]["models"] == [model]
    assert binding["spec"]["subjects"] == [{"workload": {"namespace": "payments", "serviceAccount": "check-out"}}]
    expected = yaml.safe_load(made["expectations.yaml"])["expectations"]
    assert [each["expect"] for each in expected] == ["allow", "deny", "deny"]
    assert "issuers" not in made["mesh.yaml"]
    assert (
        "--trust-domain prod.example --client spiffe://prod.example/ns/payments/sa/check-out\n" in made["sidecar.yaml"]
    )
    assert HEAD.endswith(f"$schema={SCHEMA_FILE}\n")
