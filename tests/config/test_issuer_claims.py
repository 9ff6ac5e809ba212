"""Paths that lead nowhere in tokens of well-known issuers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from meshproxy.config.issuer_claims import why_no_token_has

CLUSTER = "https://kubernetes.default.svc.cluster.local"
EKS = "https://oidc.eks.eu-central-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
STS = "https://EXAMPLE.tokens.sts.global.api.aws"


@pytest.mark.parametrize(
    ("issuer", "path"),
    [
        (CLUSTER, "kubernetes.io.namespace"),
        (CLUSTER, "kubernetes.io.serviceaccount.name"),
        (CLUSTER, ["kubernetes.io", "pod", "uid"]),
        (CLUSTER, "sub"),
        (EKS, ["sub"]),
        (STS, "https://sts.amazonaws.com/.aws_account"),
        (STS, ["https://sts.amazonaws.com/", "principal_tags", "team"]),
        ("https://login.example", "anything"),
        ("https://kubernetes.default.example.com", "groups"),  # another host
    ],
)
def test_a_path_that_may_lead_somewhere(issuer: str, path: str | Sequence[str]) -> None:
    assert why_no_token_has(issuer, path) is None


@pytest.mark.parametrize(
    ("issuer", "path"),
    [
        (CLUSTER, "groups"),
        (CLUSTER, "kubernetes.io/namespace"),
        (CLUSTER, ["kubernetes", "io", "namespace"]),
        (CLUSTER, ["kubernetes.io", "serviceAccount", "name"]),
        (EKS, "kubernetes.io.name"),
        (STS, "aws_account"),
        (STS, ["scope"]),
    ],
)
def test_a_path_that_leads_nowhere(issuer: str, path: str | Sequence[str]) -> None:
    said = why_no_token_has(issuer, path)
    assert said is not None
    assert said.startswith(("no token of Kubernetes has ", "no token of AWS STS has "))
    assert said.endswith("so this never matches")
