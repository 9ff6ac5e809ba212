"""Calls by path, and what is said of those that come to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from meshproxy.control.api_calls import AT_ONCE, METADATA, PAGE, CallFailed, Calls, resources
from meshproxy.control.finding import Unknown

Answer = Callable[[httpx2.Request], httpx2.Response]


def client(answer: Answer) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url="https://cluster.example", transport=httpx2.MockTransport(answer))


async def failure(answer: Answer) -> tuple[str, int | None]:
    async with client(answer) as caller:
        with pytest.raises(CallFailed) as caught:
            await Calls(caller).call(dict[str, int], "GET", "/version")
    return caught.value.unknown.why, caught.value.status


@pytest.mark.parametrize(
    ("response", "why", "status"),
    [
        (httpx2.Response(403, json={"message": "you may not"}), "the API server answered 403: you may not", 403),
        (httpx2.Response(502, text="no JSON"), "the API server answered 502", 502),
        (httpx2.Response(404, json=[]), "the API server answered 404", 404),
        (
            httpx2.Response(200, json={"a": "b"}),
            "no answer (ValidationError: Expected `int`, got `str` - at `$[...]`)",
            None,
        ),
    ],
    ids=["a status", "a proxy", "another page", "not what was asked for"],
)
async def test_calls_that_come_to_nothing(response: httpx2.Response, why: str, status: int | None) -> None:
    assert await failure(lambda _: response) == (why, status)


async def test_nobody_is_there() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    assert await failure(answer) == ("no answer (ConnectError: refused)", None)


async def test_a_list_of_several_pages() -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(dict(request.url.params))
        assert request.headers["accept"] == METADATA
        number = len(asked)
        more = {"continue": "on"} if number < 3 else {}
        return httpx2.Response(200, json={"items": [number], "metadata": more})

    async with client(answer) as caller:
        assert await Calls(caller).list(int, "/api/v1/nodes", METADATA, labelSelector="a=b") == [1, 2, 3]
    first = {"labelSelector": "a=b", "limit": str(PAGE)}
    assert asked == [first, first | {"continue": "on"}, first | {"continue": "on"}]


async def test_an_empty_list_of_metadata() -> None:
    async with client(lambda _: httpx2.Response(200, json={"items": None})) as caller:
        assert await Calls(caller).list(int, "/api/v1/nodes", METADATA) == []


async def test_a_few_at_a_time() -> None:
    running = most = 0

    async def answer(request: httpx2.Request) -> httpx2.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running -= 1
        return httpx2.Response(200, json={})

    async with httpx2.AsyncClient(base_url="https://c", transport=httpx2.MockTransport(answer)) as caller:
        calls = Calls(caller)
        await asyncio.gather(*(calls.call(dict[str, int], "GET", "/") for _ in range(4 * AT_ONCE)))
    assert most == AT_ONCE


@pytest.mark.parametrize(
    ("api_version", "path"), [("v1", "/api/v1"), ("apps/v1", "/apis/apps/v1")], ids=["the core", "a group"]
)
async def test_what_is_served(api_version: str, path: str) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == path
        return httpx2.Response(200, json={"resources": [{"name": "pods"}, {"name": "pods/log"}]})

    async with client(answer) as caller:
        assert await resources(Calls(caller), api_version) == {"pods", "pods/log"}


async def test_what_is_not_served() -> None:
    async with client(lambda _: httpx2.Response(404, text="404 page not found")) as caller:
        assert await resources(Calls(caller), "none/v1") == frozenset()
    async with client(lambda _: httpx2.Response(500)) as caller:
        assert await resources(Calls(caller), "v1") == Unknown("the API server answered 500")
