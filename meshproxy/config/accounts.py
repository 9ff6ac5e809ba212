"""AWS accounts by name: in documents a role may be `arn:aws:iam::NAME:role/ROLE`, elsewhere it has the number."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

if TYPE_CHECKING:
    from meshproxy.config.fields import Subject
    from meshproxy.config.routes import ModelRoute
    from meshproxy.config.schema import ModelRoleBinding

AnySubject = TypeVar("AnySubject", bound="Subject")

_ACCOUNT = 4
"""The place of the account among the parts of an ARN."""


def account_name(arn: str) -> str | None:
    """The name that stands in the place of the account; None if its number does."""
    parts = arn.split(":")
    return parts[_ACCOUNT] if len(parts) > _ACCOUNT and parts[_ACCOUNT] and not parts[_ACCOUNT].isdigit() else None


def bindings_with_numbers(
    bindings: tuple[ModelRoleBinding, ...], accounts: Mapping[str, str]
) -> tuple[ModelRoleBinding, ...]:
    """The bindings with the numbers of accounts. Names that are not known are left: no role has such an ARN."""
    return tuple(map(partial(_binding, accounts), bindings)) if accounts else bindings


def routes_with_numbers(routes: tuple[ModelRoute, ...], accounts: Mapping[str, str]) -> tuple[ModelRoute, ...]:
    """The same for the callers in the matches of routes."""
    return tuple(map(partial(_route, accounts), routes)) if accounts else routes


def _binding(accounts: Mapping[str, str], binding: ModelRoleBinding) -> ModelRoleBinding:
    subjects = tuple(_numbered(subject, accounts) for subject in binding.spec.subjects)
    return replace(binding, spec=replace(binding.spec, subjects=subjects))


def _route(accounts: Mapping[str, str], route: ModelRoute) -> ModelRoute:
    matches = tuple(
        match if match.caller is None else replace(match, caller=_numbered(match.caller, accounts))
        for match in route.spec.match
    )
    return replace(route, spec=replace(route.spec, match=matches))


def _numbered(subject: AnySubject, accounts: Mapping[str, str]) -> AnySubject:
    name = account_name(subject.iam_role) if subject.iam_role is not None else None
    if subject.iam_role is None or name is None or name not in accounts:
        return subject
    return replace(subject, iam_role=subject.iam_role.replace(f":{name}:", f":{accounts[name]}:", 1))
