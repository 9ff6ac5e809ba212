"""AWS accounts by name, from the document to what is compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.config.accounts import account_name
from meshproxy.config.load import load
from meshproxy.config.problems import ConfigError

DOCUMENTS = """\
apiVersion: meshproxy.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec:
  trustDomain: prod.example
  aws:
    accounts: {models: "012345678901"}
    callerIdentity: {audience: models-prod, endpoints: [sts.eu-central-1.amazonaws.com]}
---
apiVersion: meshproxy.dev/v1alpha1
kind: Sidecar
metadata: {name: own}
spec:
  inbound: {server: models}
  identity: {files: {certificate: c.pem, key: k.pem, trustBundle: b.pem}}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelServer
metadata: {name: models}
spec: {endpoints: [{rest: "127.0.0.1:8501"}]}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRole
metadata: {name: caller}
spec: {rules: [{models: ["*"], verbs: [predict]}]}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRoleBinding
metadata: {name: b}
spec:
  role: caller
  subjects: [{iamRole: "arn:aws:iam::models:role/team/caller"}, {iamRole: "arn:aws:iam::123456789012:role/x"}]
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRoute
metadata: {name: r}
spec:
  models: [m]
  server: models
  match: [{caller: {iamRole: "arn:aws:iam::models:role/caller"}}]
"""


def test_names_become_numbers(tmp_path: Path) -> None:
    path = tmp_path / "documents.yaml"
    path.write_text(DOCUMENTS)
    documents = load([str(path)])
    assert [subject.iam_role for subject in documents.bindings[0].spec.subjects] == [
        "arn:aws:iam::012345678901:role/team/caller",
        "arn:aws:iam::123456789012:role/x",
    ]
    caller = documents.routes[0].spec.match[0].caller
    assert caller is not None
    assert caller.iam_role == "arn:aws:iam::012345678901:role/caller"


def test_a_name_that_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "documents.yaml"
    path.write_text(DOCUMENTS.replace("iam::models:role/team", "iam::model:role/team"))
    with pytest.raises(ConfigError) as caught:
        load([str(path)])
    (problem,) = caught.value.problems
    assert problem.field == "spec.subjects[0].iamRole"
    assert 'no AWS account named "model"' in problem.message


def test_a_number_is_text(tmp_path: Path) -> None:
    path = tmp_path / "documents.yaml"
    path.write_text(DOCUMENTS.replace('"012345678901"', "123456789012"))
    with pytest.raises(ConfigError, match="the number of an AWS account in quotes"):
        load([str(path)])


def test_the_name_in_an_arn() -> None:
    assert account_name("arn:aws:iam::models:role/x") == "models"
    assert account_name("arn:aws:iam::123456789012:role/x") is None
    assert account_name("nothing") is None
