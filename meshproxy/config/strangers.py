"""Issuers that give tokens to anybody with an account there, and whether a demand on the claims of such a token leaves
anybody out.

Sources: GitHub, "OpenID Connect reference"; GitLab, "OpenID Connect (OIDC) authentication using ID tokens"; HCP
Terraform, "Workload identity"; Buildkite, "Buildkite OIDC tokens"; Google, "OpenID Connect".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from meshproxy.config.fields import ClaimPattern, TextMatch, claims_of
from meshproxy.config.issuers import is_about_presence
from meshproxy.config.text_match import compile_text

if TYPE_CHECKING:
    from meshproxy.config.issuers import Issuer

_ALIKE = frozenset({"iss", "aud", "exp", "nbf", "iat"})
"""Claims that are alike, or are chosen, in the tokens of all whom an issuer gives them."""


class Strangers(msgspec.Struct, frozen=True):
    """What the tokens of strangers may say."""

    instead: str = "a claim that only yours have"
    """What to demand of them."""
    chosen: frozenset[str] = frozenset()
    """Claims to which anybody gives the value that he likes, in a place of his own."""
    owned: Mapping[str, tuple[str, str]] = {}
    """Claims with the name of an owner: what stands before the name, and what ends it; nothing if it is the whole rest.
    A prefix that stops before that end is one of other owners, too: anybody may register `acme-2` beside `acme`."""
    subjects: tuple[str, ...] = ()
    """Some of strangers, as they are found everywhere."""


_GITHUB = Strangers(
    '{sub: {prefix: "repo:OWNER/REPOSITORY:"}}',
    frozenset(
        (
            "base_ref", "environment", "event_name", "head_ref", "ref", "ref_protected", "ref_type",
            "repository_visibility", "run_attempt", "run_number", "runner_environment", "workflow",
        )
    ),
    {
        "sub": ("repo:", "/"),
        "repository": ("", "/"),
        "repository_owner": ("", ""),
        "job_workflow_ref": ("", "/"),
        "workflow_ref": ("", "/"),
    },
    (
        "repo:stranger/any:pull_request",
        "repo:stranger/any:ref:refs/tags/v1.0.0",
        *(f"repo:stranger/any:ref:refs/heads/{branch}" for branch in ("main", "master", "any")),
        *(f"repo:stranger/any:environment:{name}" for name in ("production", "prod", "staging", "any")),
    ),
)  # fmt: skip
_GITLAB = Strangers(
    '{sub: {prefix: "project_path:GROUP/PROJECT:"}}',
    frozenset(
        (
            "deployment_tier", "environment", "environment_action", "environment_protected", "pipeline_source",
            "project_visibility", "ref", "ref_path", "ref_protected", "ref_type", "runner_environment",
        )
    ),
    {
        "sub": ("project_path:", "/"),
        "project_path": ("", "/"),
        "namespace_path": ("", ""),
        "ci_config_ref_uri": ("gitlab.com/", "/"),
    },
    (
        "project_path:stranger/any:ref_type:tag:ref:v1.0.0",
        *(f"project_path:stranger/any:ref_type:branch:ref:{branch}" for branch in ("main", "master", "any")),
    ),
)  # fmt: skip
_TERRAFORM = Strangers(
    '{sub: {prefix: "organization:ORGANIZATION:project:"}}',
    frozenset(("terraform_project_name", "terraform_run_phase", "terraform_workspace_name")),
    {
        "sub": ("organization:", ":"),
        "terraform_full_workspace": ("organization:", ":"),
        "terraform_organization_name": ("", ""),
    },
    tuple(
        f"organization:stranger:project:Default Project:workspace:any:run_phase:{phase}" for phase in ("plan", "apply")
    ),
)
_BUILDKITE = Strangers(
    '{sub: {prefix: "organization:ORGANIZATION:pipeline:"}}',
    frozenset(("build_branch", "build_number", "build_source", "build_tag", "pipeline_slug", "step_key")),
    {"sub": ("organization:", ":"), "organization_slug": ("", "")},
    tuple(
        f"organization:stranger:pipeline:any:ref:refs/heads/{branch}:commit:{'0' * 40}:step:any"
        for branch in ("main", "master", "any")
    ),
)
_GOOGLE = Strangers(chosen=frozenset(("email_verified",)), owned={"email": ("", "")}, subjects=("1" * 21,))

_OF: Mapping[str, Strangers] = {
    "https://accounts.google.com": _GOOGLE,
    "accounts.google.com": _GOOGLE,
    "https://app.terraform.io": _TERRAFORM,
    "https://token.actions.githubusercontent.com": _GITHUB,
    "https://gitlab.com": _GITLAB,
    "https://agent.buildkite.com": _BUILDKITE,
    "https://oidc.circleci.com": Strangers(),
}


def strangers_of(issuer: Issuer) -> Strangers | None:
    """Whom an issuer gives tokens for an audience of their choice, if that is anybody with an account and what the
    issuer's document requires of claims leaves nobody out."""
    found = _OF.get(issuer.issuer)
    if found is None:
        return None
    required = claims_of(issuer.required_claims, issuer.required_claim_paths)
    return found if all(is_met(found, path, wanted) for path, wanted in required) else None


def is_met(by: Strangers, path: str | tuple[str, ...], wanted: object) -> bool:
    """Whether tokens of strangers may meet what is demanded of one claim."""
    claim = path if isinstance(path, str) else path[0] if len(path) == 1 else ""
    if claim in _ALIKE or claim in by.chosen or is_about_presence(wanted):
        return True
    if isinstance(wanted, ClaimPattern) and wanted.all_of:
        return all(is_met(by, path, each) for each in wanted.all_of)
    if isinstance(wanted, ClaimPattern) and wanted.any_of:
        return any(is_met(by, path, each) for each in wanted.any_of)
    if not isinstance(wanted, TextMatch):
        return False
    if wanted.prefix is not None and claim in by.owned:
        return _is_of_several(wanted.prefix, *by.owned[claim])
    return claim == "sub" and any(map(compile_text(wanted), by.subjects))


def _is_of_several(prefix: str, before: str, end: str) -> bool:
    """Whether a prefix leaves the owner open. What begins otherwise is in a form that the owner has chosen himself."""
    owner = prefix.removeprefix(before)
    if owner == prefix and before:
        return before.startswith(prefix)
    return not end or end not in owner[1:]
