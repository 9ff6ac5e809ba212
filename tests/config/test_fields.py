"""Single fields, and the structs that several kinds share."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from meshproxy.config import fields
from meshproxy.inference.call import Verb


def test_the_verbs_are_those_of_calls() -> None:
    assert get_args(fields.VerbWord) == tuple(verb.value for verb in Verb)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (fields.WorkloadSubject, {}),
        (fields.WorkloadSubject, {"spiffeId": "spiffe://d/a", "namespace": "a"}),
        (fields.WorkloadSubject, {"spiffeId": "spiffe://d/a", "trustDomain": "d"}),
        (fields.TokenSubject, {"issuer": "a", "claims": {"": "x"}}),
        (fields.Subject, {}),
        (fields.BindingSubject, {}),
        (fields.BindingSubject, {"ipBlocks": []}),
        (fields.ClaimPattern, {}),
        (fields.ClaimPattern, {"prefix": "a", "suffix": "b"}),
        (fields.ClaimPattern, {"prefix": "a", "anyOf": ["b"]}),
        (fields.ClaimPattern, {"allOf": ["a"], "anyOf": ["b"]}),
        (fields.ClaimPattern, {"allOf": []}),
        (fields.ClaimPattern, {"allOf": [{"anyOf": ["a"]}]}),
    ],
)
def test_what_a_struct_knows_to_be_wrong(kind: type[Any], given: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given, kind)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (fields.WorkloadSubject, {"namespace": "a", "serviceAccount": "b"}),
        (fields.WorkloadSubject, {"serviceAccount": "b"}),
        (fields.WorkloadSubject, {"trustDomain": "d"}),
        (fields.BindingSubject, {"ipBlocks": ["10.0.0.0/8"]}),
        (fields.BindingSubject, {"notIpBlocks": ["10.0.0.0/8"]}),
        (fields.BindingSubject, {"headers": {"x-a": {"prefix": "b"}}}),
        (fields.ClaimPattern, {"prefix": "a"}),
        (fields.ClaimPattern, {"anyOf": ["a", 1, True, {"suffix": "b"}]}),
    ],
)
def test_what_a_struct_takes(kind: type[Any], given: dict[str, Any]) -> None:
    assert isinstance(msgspec.convert(given, kind), kind)
