"""The task that keeps keys fresh: one attempt at a time, and no error ends it."""

from __future__ import annotations

import asyncio
import json
from time import time

import pytest

from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.identity import keys as module
from meshproxy.identity.key_budget import Ask
from meshproxy.identity.keys import IssuerKeys
from meshproxy.identity.tokens import Issuer, KeysWanted, TokenVerifier
from meshproxy.sidecar.http_get import Access, FetchError
from meshproxy.sidecar.key_refresher import KeyRefresher
from meshproxy.sidecar.key_sources import from_discovery
from meshproxy.transport.client import ClientError, ClientFailure

ES = frozenset({"ES256"})


def document(issuer: DevelopmentIssuer) -> bytes:
    return json.dumps(issuer.jwks()).encode()


async def test_whole_life_with_an_issuer() -> None:
    """Verified, rotated, verified at once; down: known keys go on, unknown ones do not wait."""
    async with DevelopmentIssuer.serve(algorithm="ES256") as issuer:
        keys = IssuerKeys("corp", ES)
        attempts: list[str | None] = []
        refresher = KeyRefresher(
            keys, from_discovery(issuer.issuer, Access()), report=lambda keys: attempts.append(keys.problem)
        )
        verifier = TokenVerifier([Issuer("corp", issuer.issuer, frozenset({"models"}), keys)])
        token = b"Bearer " + issuer.token().encode()
        with pytest.raises(KeysWanted):
            verifier.verify(token, time())
        await refresher.refresh()
        assert verifier.verify(token, time()).subject == "quoter"
        assert issuer.requests == ["/.well-known/openid-configuration", "/keys"]

        issuer.is_down = True
        await refresher.refresh()
        assert verifier.verify(token, time() + 200).subject == "quoter"
        assert keys.ask("key-9", time() + 1000) is Ask.LATER
        assert attempts == [None, "the OpenID configuration: the response has status 503"]


class Source:
    """A key set that comes when it is let go."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> bytes:
        self.asked += 1
        answer = self.answers[min(self.asked, len(self.answers)) - 1]
        await self.gate.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(scope="module")
def corp() -> DevelopmentIssuer:
    return DevelopmentIssuer(algorithm="ES256")


async def test_one_fetch_however_many_ask(corp: DevelopmentIssuer) -> None:
    source = Source(document(corp))
    source.gate.clear()
    keys = IssuerKeys("corp", ES)
    refresher = KeyRefresher(keys, source)
    running = asyncio.create_task(refresher.run())
    assert keys.ask("key-9", time()) is Ask.WAIT
    waiting = [asyncio.create_task(refresher.refresh()) for _ in range(50)]
    while not source.asked:
        await asyncio.sleep(0)
    waiting.pop().cancel()  # one who goes away takes nothing from the others
    await asyncio.sleep(0)
    source.gate.set()
    await asyncio.gather(*waiting)
    assert source.asked == 1
    assert keys.has_keys
    assert keys.ask("key-9", time()) is Ask.NEVER  # it has been looked for
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (FetchError("the issuer is another"), "the issuer is another"),
        (ClientError(ClientFailure.TIMEOUT, "x did not answer within 5 s"), "x did not answer within 5 s"),
        (FileNotFoundError(2, "No such file or directory"), "cannot be read: No such file or directory"),
        (UnicodeError("label empty or too long"), "cannot be read: UnicodeError"),
        (ZeroDivisionError(), "cannot be read: ZeroDivisionError"),
    ],
)
async def test_whatever_happens_is_a_failure_not_an_end(
    corp: DevelopmentIssuer, error: Exception, problem: str
) -> None:
    source = Source(error, document(corp))
    keys = IssuerKeys("corp", ES)
    reports: list[tuple[str | None, int, bool]] = []

    def report(keys: IssuerKeys) -> None:
        reports.append((keys.problem, keys.failures, keys.has_keys))

    refresher = KeyRefresher(keys, source, report=report, jitter=lambda: 0.0)
    await refresher.refresh()
    await refresher.refresh()
    assert reports == [(problem, 1, False), (None, 0, True)]


async def test_it_runs_on(corp: DevelopmentIssuer) -> None:
    source = Source(document(corp), FetchError("once"), document(corp))
    keys = IssuerKeys("corp", ES, refresh=0.001)
    done = asyncio.Event()
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.5  # whatever is due, is due at the next look
        return now

    def report(keys: IssuerKeys) -> None:
        if source.asked >= 5:
            done.set()

    running = asyncio.create_task(KeyRefresher(keys, source, report=report, clock=clock, jitter=lambda: 0.0).run())
    await asyncio.wait_for(done.wait(), 60)
    assert keys.failures == 0
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_fetch_out_of_turn_that_fails_is_tried_again_soon(
    corp: DevelopmentIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The issuer answers 503 to the one fetch that a new key has caused: the next regular one is minutes away."""
    monkeypatch.setattr(module, "BACK_OFF", (0.001, 0.001))
    source = Source(document(corp), FetchError("503"), document(corp))
    keys = IssuerKeys("corp", ES)
    done = asyncio.Event()

    def report(keys: IssuerKeys) -> None:
        if source.asked >= 3:
            done.set()

    refresher = KeyRefresher(keys, source, report=report)
    running = asyncio.create_task(refresher.run())
    for _ in range(100):  # until it waits for its next turn
        await asyncio.sleep(0)
    assert source.asked == 1
    await refresher.refresh()
    assert keys.failures == 1
    await asyncio.wait_for(done.wait(), 60)
    assert keys.failures == 0
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_stopped_in_the_middle(corp: DevelopmentIssuer) -> None:
    source = Source(document(corp))
    source.gate.clear()
    keys = IssuerKeys("corp", ES)
    refresher = KeyRefresher(keys, source)
    running = asyncio.create_task(refresher.run())
    while not source.asked:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    assert not keys.is_refreshing
    assert keys.failures == 0  # that we stopped says nothing about the issuer
