"""Demands on claims that strangers meet, too."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from meshproxy.config.fields import ClaimPattern, TextMatch
from meshproxy.config.strangers import is_met, strangers_of
from tests.config.conftest import Check, mesh, said
from tests.config.test_policy_warnings import GOOD, binding

GITHUB = "https://token.actions.githubusercontent.com"
GITLAB = "https://gitlab.com"
TERRAFORM = "https://app.terraform.io"
BUILDKITE = "https://agent.buildkite.com"
GOOGLE = "https://accounts.google.com"


def of_an_issuer(check: Check, url: str, claims: str, required: str = "{}") -> list[str]:
    issuer = f"{{name: i, issuer: '{url}', audiences: [a], requiredClaims: {required}, keys: {{file: /dev/null}}}}"
    subject = f"{{token: {{issuer: i, claims: {claims}}}}}"
    return said(check(mesh(f", issuers: [{issuer}]"), *GOOD[1:], binding("b", "readers", subject)), "MP0511")


@pytest.mark.parametrize(
    ("url", "claims"),
    [
        (GITHUB, '{sub: {prefix: "repo:"}}'),
        (GITHUB, '{sub: {prefix: "r"}}'),
        (GITHUB, '{sub: {prefix: "repo:acme"}}'),  # of acme-2, too
        (GITHUB, '{sub: {regex: "repo:.*:ref:refs/heads/main"}}'),
        (GITHUB, '{sub: {suffix: ":pull_request"}}'),
        (GITHUB, '{sub: {contains: ":environment:production"}}'),
        (GITHUB, '{sub: {anyOf: ["repo:acme/app:pull_request", {prefix: "repo:"}]}}'),
        (GITHUB, '{sub: {allOf: [{prefix: "repo:"}, {suffix: ":ref:refs/heads/main"}]}}'),
        (GITHUB, "{environment: production, ref: refs/heads/main}"),
        (GITHUB, "{repository_owner: {prefix: acme}}"),
        (GITLAB, '{sub: {prefix: "project_path:"}}'),
        (GITLAB, "{ref_protected: 'true'}"),
        (TERRAFORM, "{sub: {suffix: ':run_phase:apply'}}"),
        (BUILDKITE, '{sub: {prefix: "organization:acme"}}'),
        (GOOGLE, "{email_verified: true}"),
        (GOOGLE, "{email: {prefix: admin}}"),
        (GOOGLE, '{sub: {regex: "[0-9]+"}}'),
    ],
)
def test_what_strangers_have(check: Check, url: str, claims: str) -> None:
    (found,) = of_an_issuer(check, url, claims)
    assert f"allows everybody: whoever has an account gets tokens of {url} for any audience, and they meet" in found


@pytest.mark.parametrize(
    ("url", "claims"),
    [
        (GITHUB, '{sub: {prefix: "repo:acme/"}}'),
        (GITHUB, '{sub: {prefix: "repo:"}, repository_owner: acme}'),
        (GITHUB, '{sub: {allOf: [{prefix: "repo:acme/"}, {suffix: ":ref:refs/heads/main"}]}}'),
        (GITHUB, '{sub: {prefix: "repository_owner_id:1:"}}'),  # a form that the organization has chosen
        (GITHUB, '{sub: "repo:acme/app:environment:production"}'),
        (GITHUB, '{job_workflow_ref: {prefix: "acme/"}, environment: production}'),
        (GITHUB, "{run_id: 5}"),
        (GITLAB, '{project_path: {prefix: "acme/"}}'),
        (TERRAFORM, '{sub: {prefix: "organization:acme:"}}'),
        (GOOGLE, "{email: {suffix: '@acme.example'}}"),
        ("https://login.example", "{}"),
    ],
)
def test_what_they_have_not(check: Check, url: str, claims: str) -> None:
    assert of_an_issuer(check, url, claims) == []


def test_what_the_issuer_requires_may_say_nothing_either(check: Check) -> None:
    assert len(of_an_issuer(check, GITHUB, "{}", '{sub: {prefix: "repo:"}}')) == 1
    assert of_an_issuer(check, GITHUB, "{}", "{repository_owner: acme}") == []


def test_the_message_says_what_to_name(check: Check) -> None:
    (found,) = of_an_issuer(check, GITHUB, "{}")
    assert found.endswith('for any audience: name {sub: {prefix: "repo:OWNER/REPOSITORY:"}}')


def test_a_claim_by_a_list_of_names() -> None:
    issuer = SimpleNamespace(issuer=GITHUB, required_claims={}, required_claim_paths=())
    strangers = strangers_of(issuer)  # type: ignore[arg-type]
    assert strangers is not None
    assert is_met(strangers, ("sub",), TextMatch(prefix="repo:"))
    assert not is_met(strangers, ("sub", "x"), TextMatch(prefix="repo:"))
    assert not is_met(strangers, "sub", ClaimPattern(exact="repo:a/b:pull_request"))
