"""Pre-signed requests go to an STS that checks their signatures, over TLS."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from meshproxy.config.issuers import CallerIdentity
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.tokens import KeysWanted
from meshproxy.refusal import Refusal
from meshproxy.sidecar.tokens import Tokens
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from tests.sidecar.sts import AUDIENCE, CREDENTIALS, ROLE, STRANGER, FakeSts, as_token, presign
from tests.sidecar.test_tokens import Outbox


@pytest_asyncio.fixture
async def sts(tmp_path: Path) -> AsyncIterator[tuple[FakeSts, CallerIdentity]]:
    authority = DevelopmentCA.create("dev.example")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue(dns=["localhost"]).write(tmp_path, "sts"))
    async with FakeSts.serve(context) as running:
        port = int(running.host.partition(":")[2])
        ca_file = str(authority.write(tmp_path))
        yield running, CallerIdentity(audience=AUDIENCE, endpoints=("localhost",), port=port, ca_file=ca_file)


async def role(tokens: Tokens, settings: CallerIdentity, token: str, now: float) -> str | None:
    """As the proxy does it: verify, ask once, verify again."""
    verifier = tokens.build((), settings)
    tokens.adopt()
    assert verifier is not None
    authorization = f"Bearer {token}".encode()
    try:
        return verifier.verify(authorization, now).iam_role
    except KeysWanted as wanted:
        done = asyncio.Event()
        tokens.refresh(wanted, done.set)
        await asyncio.wait_for(done.wait(), 60)
    return verifier.verify(authorization, now).iam_role


async def test_a_role_is_proven(sts: tuple[FakeSts, CallerIdentity]) -> None:
    running, settings = sts
    metrics = SidecarMetrics()
    tokens = Tokens(metrics, Outbox())  # type: ignore[arg-type]
    try:
        now = time.time()
        given = as_token(presign(running.host))
        both = await asyncio.gather(role(tokens, settings, given, now), role(tokens, settings, given, now))
        assert both == [ROLE, ROLE]
        assert len(running.requests) == 1  # one answer for both, and for a snapshot with the same settings
        for bad in (
            presign(running.host, STRANGER),
            presign(running.host, CREDENTIALS).replace("Signature=", "Signature=0")[:-1],
        ):
            with pytest.raises(Refusal, match="does not accept"):
                await role(tokens, settings, as_token(bad), now)
        asked = len(running.requests)
        for bad in (
            presign(running.host, audience="another"),
            presign("sts.us-east-1.amazonaws.com"),
            "https://localhost",
        ):
            with pytest.raises(Refusal):
                await role(tokens, settings, as_token(bad), now)
        running.status = 503
        with pytest.raises(Refusal, match="did not answer"):
            await role(tokens, settings, as_token(presign(running.host, expires=61)), now)
        # An audience of others is signed, so STS is asked about ours, and says no.
        assert len(running.requests) == asked + 2
        counted = {result: metrics.caller_identity.labels(result).value for result in ("known", "refused", "failed")}
        assert counted == {"known": 1, "refused": 3, "failed": 1}
    finally:
        await tokens.close()


async def test_what_was_read_with_other_settings_is_not_sent(sts: tuple[FakeSts, CallerIdentity]) -> None:
    """Between the look at a request and its sending, a reload may ask for another audience."""
    running, settings = sts
    tokens = Tokens(SidecarMetrics(), Outbox())  # type: ignore[arg-type]
    try:
        verifier = tokens.build((), settings)
        tokens.adopt()
        assert verifier is not None
        authorization = f"Bearer {as_token(presign(running.host))}".encode()
        with pytest.raises(KeysWanted) as caught:
            verifier.verify(authorization, time.time())
        verifier = tokens.build((), msgspec.structs.replace(settings, audience="another"))
        tokens.adopt()
        assert verifier is not None
        done = asyncio.Event()
        tokens.refresh(caught.value, done.set)
        await asyncio.wait_for(done.wait(), 60)
        with pytest.raises(KeysWanted):
            verifier.verify(authorization, time.time())
        assert not running.requests
    finally:
        await tokens.close()
