"""One probe or hook, carried out from the node, as a kubelet does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import aiohttp

if TYPE_CHECKING:
    from meshproxy.devtools.node.spec import Container, Hook, Probe

Run: TypeAlias = Callable[[Sequence[str], float | None], Awaitable[int | None]]
"""`ContainerProcess.run`, as the user of the container."""


async def probe(what: Probe, container: Container, address: str, run: Run) -> bool:
    """Whether it succeeds.

    Args:
        address: of the pod.
        run: how a command is run in the container.
    """
    timeout = what.timeout_seconds
    if what.exec is not None:
        return await run(what.exec["command"], timeout) == 0
    if what.http_get is not None:
        return await _get(what.http_get, container, address, timeout)
    assert what.tcp_socket is not None
    host, port = what.tcp_socket.get("host") or address, container.port(what.tcp_socket["port"])
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


async def hook(what: Hook, container: Container, address: str, run: Run) -> None:
    """Carry out a hook; nobody asks how it went."""
    if what.exec is not None:
        await run(what.exec["command"], None)
    elif what.sleep is not None:
        await asyncio.sleep(what.sleep["seconds"])
    elif what.http_get is not None:
        await _get(what.http_get, container, address, None)


async def _get(what: Mapping[str, Any], container: Container, address: str, timeout: float | None) -> bool:
    host, port = what.get("host") or address, container.port(what["port"])
    url = f"{what.get('scheme', 'HTTP').lower()}://{host}:{port}{what.get('path', '/')}"
    headers = {each["name"]: each["value"] for each in what.get("httpHeaders") or ()}
    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.get(url, headers=headers, ssl=False, allow_redirects=False) as response,
        ):
            return 200 <= response.status < 400
    except (aiohttp.ClientError, TimeoutError):
        return False
