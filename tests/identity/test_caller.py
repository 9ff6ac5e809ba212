from __future__ import annotations

import pytest

from meshproxy.identity.caller import ANONYMOUS, Caller, Token, Workload

WORKLOAD = Workload("spiffe://d/ns/pricing/sa/quoter", "d", "pricing", "quoter", 2e9)


def token(**claims: object) -> Token:
    return Token("corp", "alice", claims, 2e9)


@pytest.mark.parametrize(
    ("caller", "text"),
    [
        (ANONYMOUS, "anonymous"),
        (Caller(WORKLOAD), "spiffe://d/ns/pricing/sa/quoter"),
        (Caller(None, token()), "anonymous (corp:alice)"),
        (Caller(WORKLOAD, token()), "spiffe://d/ns/pricing/sa/quoter (corp:alice)"),
    ],
)
def test_it_is_told_by_workload_and_token_and_never_by_claims(caller: Caller, text: str) -> None:
    assert str(caller) == text


def test_decisions_are_remembered_for_one_token_and_not_for_another_with_the_same_subject() -> None:
    """Claims decide, and are not part of any comparison: two tokens of one subject may have different groups."""
    finance, marketing = token(groups=["finance"]), token(groups=["marketing"])
    decisions = {Caller(WORKLOAD, finance): "permitted"}
    assert decisions[Caller(WORKLOAD, finance)] == "permitted"
    assert Caller(WORKLOAD, marketing) not in decisions
    assert Caller(WORKLOAD, token(groups=["finance"])) not in decisions


def test_a_workload_is_the_same_over_every_connection_that_shows_the_same_certificate() -> None:
    same = Workload("spiffe://d/ns/pricing/sa/quoter", "d", "pricing", "quoter", 2e9)
    renewed = Workload("spiffe://d/ns/pricing/sa/quoter", "d", "pricing", "quoter", 3e9)
    assert {Caller(WORKLOAD), Caller(same)} == {Caller(same)}
    assert Caller(renewed) != Caller(WORKLOAD)
