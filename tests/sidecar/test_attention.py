"""What an operator is told to look at."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.sidecar.attention import attention
from tests.sidecar.conftest import endpoint, issuer, rejected, status


def server(*endpoints: dict[str, Any], known: bool = True) -> dict[str, Any]:
    return {"servers": {"local": {"source": "dns", "known": known, "endpoints": list(endpoints)}}}


def test_nothing(noon: float) -> None:
    assert attention(status(), noon) == []
    assert attention(status(identity=None, issuers=[], servers={}), noon) == []
    applied = {"at": "2026-01-01T11:00:00.000+00:00", "result": "applied", "problems": []}
    assert attention(status(documents={**status()["documents"], "lastReload": applied}), noon) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"conditions": {"a": True, "b": False}}, "not ready, as this does not hold: b"),
        (
            {"documents": rejected("f.yaml:3: bad")},
            "the last documents were rejected, the previous ones are in use: f.yaml:3: bad",
        ),
        (
            {"documents": rejected("f.yaml:3: bad", "worse", "worst")},
            "the last documents were rejected, the previous ones are in use: f.yaml:3: bad (and 2 more)",
        ),
        (
            {"identity": {**status()["identity"], "notAfter": "2026-01-01T12:00:00.000+00:00"}},
            "the certificate has expired: clients cannot connect",
        ),
        (
            {"identity": {**status()["identity"], "problem": "another key"}},
            "a new certificate was rejected, the previous one is in use: another key",
        ),
        (
            {"issuers": [issuer(problem="timeout")]},
            "keys of issuer corp could not be fetched, those fetched before are in use: timeout",
        ),
        (
            {"issuers": [issuer(problem="timeout", keys=0)]},
            "keys of issuer corp could not be fetched, its tokens are refused: timeout",
        ),
        (server(known=False), "the endpoints of local are not known yet"),
        (server(), "local has no endpoints"),
        (
            server(endpoint(takesCalls=False), endpoint("b:1")),
            "1 of 2 endpoints of local take no calls, or single ones",
        ),
        (server(endpoint(breaker="half_open")), "1 of 1 endpoints of local take no calls, or single ones"),
        (
            server(endpoint(unavailableModels=["m"]), endpoint("b:1", unavailableModels=["a", "m"])),
            "models of local that are not available everywhere: a, m",
        ),
    ],
)
def test_each(fields: dict[str, Any], expected: str, noon: float) -> None:
    assert attention(status(**fields), noon) == [expected]


def test_models_whose_hop_lag_has_risen(noon: float) -> None:
    assert attention(status(hopLag={"raised": ["a", "b"]}), noon) == ["the hop lag of these models has risen: a, b"]
    many = [f"m{number}" for number in range(10)]
    (said,) = attention(status(hopLag={"raised": many}), noon)
    assert said.endswith("m7 (and 2 more)")
