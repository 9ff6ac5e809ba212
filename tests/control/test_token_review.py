"""Reviews of tokens, asked of an API server that is made up; tests/e2e asks a real one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from meshproxy.control.authority import RequestRefused
from meshproxy.control.service_accounts import PodIdentity
from meshproxy.control.token_review import TokenReviewer
from tests.control.fake_reviews import FakeReviews, reviewed
from tests.control.pod_tokens import POD, PodTokens
from tests.processes.waiting import until


class World:
    """A cluster with one pod."""

    def __init__(self, server: FakeReviews) -> None:
        self.server = server
        self.tokens = PodTokens()
        server.add_pod()

    def token(self, status: Any = None, **claims: Any) -> str:
        """A token that the API server knows."""
        token = self.tokens.token(**claims)
        self.server.reviews[token] = reviewed() if status is None else status
        return token

    def reviewer(self, **options: Any) -> TokenReviewer:
        return TokenReviewer(self.server.client(), **options)

    async def refused(self, token: str, **options: Any) -> tuple[str, str]:
        with pytest.raises(RequestRefused) as caught:
            await self.reviewer(**options).identify(token)
        assert token not in caught.value.message
        return caught.value.reason, caught.value.message


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with FakeReviews.serve() as server:
        yield World(server)


async def test_a_pod_is_identified(world: World) -> None:
    assert await world.reviewer().identify(world.token()) == POD
    assert world.server.asked == [
        "POST /apis/authentication.k8s.io/v1/tokenreviews",
        "GET /api/v1/namespaces/models/pods/resnet-0",
    ]


async def test_nothing_is_remembered(world: World) -> None:
    """A token that is replayed is reviewed again: it is good for as long as the cluster says."""
    reviewer, token = world.reviewer(), world.token()
    await reviewer.identify(token)
    del world.server.reviews[token]
    with pytest.raises(RequestRefused):
        await reviewer.identify(token)


async def test_refusals(world: World) -> None:
    assert (await world.refused(world.tokens.token()))[0] == "token-unauthenticated"
    assert (await world.refused(world.tokens.token(exp=int(time.time()) - 1)))[0] == "token-expired"
    assert (await world.refused(world.token(reviewed(audiences=["api"]))))[0] == "token-audience"
    other = PodIdentity("models", "resnet", "resnet-0", "of the pod before")
    assert (await world.refused(world.token(reviewed(other))))[0] == "token-pod"
    gone = PodIdentity("models", "resnet", "resnet-9", "gone")
    assert (await world.refused(world.token(reviewed(gone))))[0] == "token-pod"
    world.server.add_pod(phase="Succeeded")
    assert (await world.refused(world.token()))[0] == "token-pod"


async def test_what_cannot_be_good_is_not_sent(world: World) -> None:
    assert (await world.refused(world.token(aud=["api"])))[0] == "token-audience"
    assert (await world.refused("no token"))[0] == "token-malformed"
    assert world.server.asked == []


async def test_an_api_server_that_fails(world: World) -> None:
    token = world.token()
    for status, says in ((500, "(status 500); try again"), (403, "(status 403): this control plane may not create")):
        world.server.fails = {"/apis/authentication": status}
        reason, message = await world.refused(token)
        assert reason == "cluster"
        assert says in message
    world.server.fails = {"/api/v1": 500}
    assert (await world.refused(token))[0] == "cluster"


async def test_an_api_server_that_is_away(world: World) -> None:
    world.server.url = "http://127.0.0.1:1"
    reason, message = await world.refused(world.token())
    assert (reason, message) == (
        "cluster",
        "the API server has not reviewed the token (ConnectError); try again later",
    )


async def test_pods_that_may_not_be_read(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The review alone decides; operators are told once."""
    world.server.fails = {"/api/v1": 403}
    reviewer = world.reviewer()
    for _ in range(2):
        assert await reviewer.identify(world.token()) == POD
    assert [record.message for record in caplog.records if "pods cannot be read" in record.message] == [
        caplog.records[0].message
    ]


async def test_reviews_are_bounded_in_number(world: World) -> None:
    world.server.may_answer.clear()
    reviewer, token = world.reviewer(at_once=2, seconds=60.0), world.token()
    asking = [asyncio.create_task(reviewer.identify(token)) for _ in range(5)]
    await until(lambda: world.server.most_at_once == 2)
    world.server.may_answer.set()
    assert await asyncio.gather(*asking) == [POD] * 5
    assert world.server.most_at_once == 2


async def test_reviews_are_bounded_in_time(world: World) -> None:
    """Also those that wait for their turn."""
    world.server.may_answer.clear()
    reviewer, token = world.reviewer(at_once=1, seconds=0.1), world.token()
    results = await asyncio.gather(*(reviewer.identify(token) for _ in range(3)), return_exceptions=True)
    says = "the API server has not reviewed the token within 0.1 s: try again"
    assert [str(result) for result in results] == [says] * 3
    world.server.may_answer.set()
    assert await world.reviewer().identify(token) == POD
