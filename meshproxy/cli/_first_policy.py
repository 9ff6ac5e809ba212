"""The first documents of a mesh, as `meshproxy config init` writes them: they load, and refuse whoever is not named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

SCHEMA_FILE = ".meshproxy.schema.json"
"""A name with a dot is no document in a folder of them."""
HEAD = f"# yaml-language-server: $schema={SCHEMA_FILE}\n"
"""What editors with the YAML language server read (https://github.com/redhat-developer/yaml-language-server)."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What has been asked."""

    trust_domain: str
    model: str
    namespace: str
    service_account: str
    issuer: str | None
    """The URL of an issuer of tokens; None: there is none yet."""
    audience: str


def files(answers: Answers) -> dict[str, str]:
    """The files by name."""
    return {
        SCHEMA_FILE: _schema(),
        "mesh.yaml": HEAD + _mesh(answers),
        "policy.yaml": HEAD + _policy(answers),
        "expectations.yaml": _expectations(answers),
        "sidecar.yaml": HEAD + _sidecar(answers),
    }


@cache
def _schema() -> str:
    from meshproxy.config.json_schema import json_schema

    return json.dumps(json_schema(), indent=1) + "\n"


def _mesh(answers: Answers) -> str:
    issuers = ""
    if answers.issuer is not None:
        issuers = f"""\
  issuers:
  - name: corp                      # the name that bindings use
    issuer: {_quoted(answers.issuer)}
    audiences: [{_quoted(answers.audience)}]
"""
    return f"""\
# What differs between environments: the other documents stay the same.
apiVersion: meshproxy.dev/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec:
  trustDomain: {_quoted(answers.trust_domain)}
  mtls: strict                      # strict | permissive | disabled
{issuers}"""


def _policy(answers: Answers) -> str:
    demand = "    # token: {issuer: corp, claims: {groups: team}}   # and, to demand a token, too\n"
    return f"""\
# Who may call which model. As there is a ModelRole, everything that no binding allows is denied.
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRole
metadata: {{name: caller}}
spec:
  rules:
  - models: [{_quoted(answers.model)}]
    verbs: [predict, classify, regress, metadata, status]
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRoleBinding
metadata: {{name: callers}}
spec:
  role: caller
  action: allow                     # allow | deny | audit
  subjects:
  - workload: {{namespace: {_quoted(answers.namespace)}, serviceAccount: {_quoted(answers.service_account)}}}
{demand if answers.issuer is not None else ""}"""


def _expectations(answers: Answers) -> str:
    who = f"namespace: {_quoted(answers.namespace)}, serviceAccount: {_quoted(answers.service_account)}"
    return f"""\
# What the policy is for: meshproxy policy test expectations.yaml --config .
expectations:
- name: the first caller may call its model
  workload: {{{who}}}
  model: {_quoted(answers.model)}
  verbs: [predict]
  expect: allow
  by: callers
- name: whoever is not named may not
  model: {_quoted(answers.model)}
  verbs: [predict, metadata, status]
  expect: deny
- name: nobody may have the model server load something else
  workload: {{{who}}}
  verbs: [reload]
  expect: deny
"""


def _sidecar(answers: Answers) -> str:
    domain, namespace, account = answers.trust_domain, answers.namespace, answers.service_account
    is_one = not {"*", "?"} & {*namespace, *account}
    client = f" --client spiffe://{domain}/ns/{namespace}/sa/{account}" if is_one else ""
    return f"""\
# The sidecar beside the model server. Put its certificate, key and trust bundle (PEM) where `identity` says. To try it,
# make server.pem, server-key.pem and ca.pem, and such files of a caller, and write their names there:
# meshproxy ca dev --out certs --trust-domain {domain}{client}
apiVersion: meshproxy.dev/v1alpha1
kind: ModelServer
metadata: {{name: local}}
spec:
  endpoints:
  - {{rest: "127.0.0.1:8501", grpc: "127.0.0.1:8500"}}
---
apiVersion: meshproxy.dev/v1alpha1
kind: Sidecar
metadata: {{name: sidecar}}
spec:
  identity:
    files: {{certificate: tls.crt, key: tls.key, trustBundle: ca.crt}}
  inbound: {{server: local}}
  accessLog: stdout
"""


def _quoted(text: str) -> str:
    """Text that YAML reads as it is: JSON is YAML."""
    return json.dumps(text)
