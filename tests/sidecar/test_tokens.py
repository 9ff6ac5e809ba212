"""Issuers of documents: what they become, and what a reload leaves as it is."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from time import time
from typing import Any

import msgspec
import pytest

from meshproxy.config import schema
from meshproxy.config.problems import ConfigError
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.identity.tokens import TokenVerifier
from meshproxy.refusal import Refusal
from meshproxy.sidecar.tokens import Tokens
from meshproxy.telemetry.catalogue import Metrics
from meshproxy.transport.outbox import Outbox

CORP = DevelopmentIssuer(algorithm="ES256")
DAY = 86_400


def issuer(**changed: Any) -> schema.Issuer:
    """As it comes out of a document, with the keys written out in it."""
    fields = {"name": "corp", "issuer": CORP.issuer, "audiences": ["models"], "keys": {"inline": CORP.jwks()}}
    return msgspec.convert({**fields, **changed}, schema.Issuer)


@pytest.fixture
async def tokens() -> Tokens:
    return Tokens(Metrics(), Outbox(asyncio.get_running_loop()))


def bearer(lifetime: float = 300, age: float = 0) -> bytes:
    issued = int(time() - age)
    return b"Bearer " + CORP.token("quoter", iat=issued, exp=int(issued + lifetime)).encode()


def build(tokens: Tokens, *issuers: schema.Issuer) -> TokenVerifier:
    verifier = tokens.build(issuers)
    assert verifier is not None
    tokens.adopt()
    return verifier


async def test_without_issuers_there_is_nothing_to_verify(tokens: Tokens) -> None:
    assert tokens.build(()) is None
    tokens.adopt()
    assert tokens.are_known


async def test_keys_that_the_document_holds(tokens: Tokens) -> None:
    verifier = build(tokens, issuer())
    assert tokens.are_known
    token = verifier.verify(bearer(), time())
    assert (token.issuer, token.subject) == ("corp", "quoter")


async def test_an_issuer_that_a_reload_does_not_touch_keeps_its_keys(tokens: Tokens) -> None:
    other = issuer(name="other", issuer="https://other.example")
    build(tokens, issuer(), other)
    (known, gone) = tokens._known.values()
    build(tokens, issuer(), issuer(name="third", issuer="https://third.example"))
    assert next(iter(tokens._known.values())) is known
    assert gone not in tokens._known.values()
    build(tokens, issuer(leeway=30))
    assert known not in tokens._known.values()


@pytest.mark.parametrize(
    ("changed", "lifetime", "age", "why"),
    [
        ({}, DAY, 0, None),
        ({}, DAY + 1, 0, "for longer than 86400 seconds"),
        ({"maxLifetime": 3 * DAY}, 3 * DAY, 0, None),
        ({"maxLifetime": 3 * DAY}, 3 * DAY + 1, 0, "for longer than 259200 seconds"),
        ({"maxLifetime": 300}, 301, 0, "for longer than 300 seconds"),
        ({}, 100, 130, None),
        ({}, 100, 170, "expired"),
        ({"leeway": 0}, 100, 130, "expired"),
    ],
)
async def test_how_long_a_token_is_believed(
    tokens: Tokens, changed: dict[str, Any], lifetime: int, age: int, why: str | None
) -> None:
    verifier = build(tokens, issuer(**changed))
    if why is None:
        assert verifier.verify(bearer(lifetime, age), time()).subject == "quoter"
    else:
        with pytest.raises(Refusal, match=why):
            verifier.verify(bearer(lifetime, age), time())


async def test_keys_that_cannot_be_used(tokens: Tokens) -> None:
    with pytest.raises(ConfigError) as caught:
        tokens.build((issuer(algorithms=["RS256"]),))
    (problem,) = caught.value.problems
    assert "issuer corp" in str(problem)
    assert "no usable key" in str(problem)


def test_the_library_is_there_before_the_first_keys_come() -> None:
    """Importing it takes 40 ms: not in the middle of traffic, when an issuer that was down is back."""
    program = f"""
import asyncio, json, sys
import msgspec
from meshproxy.config import schema
from meshproxy.sidecar.tokens import Tokens
from meshproxy.telemetry.catalogue import Metrics
from meshproxy.transport.outbox import Outbox

async def main():
    tokens = Tokens(Metrics(), Outbox(asyncio.get_running_loop()))
    tokens.build(())
    before = "jwt" in sys.modules
    issuer = {{"name": "a", "issuer": {CORP.issuer!r}, "audiences": ["a"], "keys": {{"url": "https://localhost:1/"}}}}
    tokens.build((msgspec.convert(issuer, schema.Issuer),))
    print(json.dumps([before, "jwt" in sys.modules]))

asyncio.run(main())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [False, True]
