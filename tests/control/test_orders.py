"""Who gives an order."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from meshproxy.control.orders import USER_HEADER, find_owner, who_orders

TABLE = [
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
    "   0: 0100007F:4850 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0",
    "   1: 0100007F:4850 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1",
    "   2: 0100007F:C350 0100007F:4850 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 20 4 30 10 -1",
    "   3: cut off",
]
SIX = [
    "   0: 00000000000000000000000001000000:C350 00000000000000000000000001000000:4850 01 0:0 00:0 0 501 0 3 1",
]


def test_the_owner_of_a_connection() -> None:
    control, command = ("127.0.0.1", 18512), ("127.0.0.1", 50000)
    assert find_owner(TABLE, command, control) == 1000
    assert find_owner(TABLE, control, command) == 0
    assert find_owner(TABLE, ("127.0.0.1", 50001), control) is None
    assert find_owner([], command, control) is None
    assert find_owner(SIX, ("::1", 50000), ("::1", 18512)) == 501


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("alice@laptop", "alice@laptop"),
        ("", "somebody"),
        ("eve (user root)@a", "somebody"),
        ("a@b\u202e", "somebody"),
        ("x" * 65 + "@a", "somebody"),
    ],
)
async def test_what_the_command_says_and_what_the_kernel_says(claim: str, said: str) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(text=who_orders(request))

    application = web.Application()
    application.router.add_get("/", handle)
    headers = {USER_HEADER: claim}
    async with TestClient(TestServer(application)) as client, client.get("/", headers=headers) as answer:
        assert await answer.text() == f"{said} (user {pwd.getpwuid(os.getuid()).pw_name})"


def test_tables_of_this_kernel_are_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as made:
        table = Path("/proc/net/tcp").read_text().splitlines()
        assert find_owner(table, made.getsockname(), made.getpeername()) == os.getuid()
