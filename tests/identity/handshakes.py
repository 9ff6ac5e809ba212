"""TLS in memory."""

from __future__ import annotations

import ssl
from collections.abc import Callable


def handshake(
    server: ssl.SSLContext | None, client: ssl.SSLContext | None, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends after a handshake in memory and a byte each way, which carries what TLS 1.3 says after it."""
    assert server is not None
    assert client is not None
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = client.wrap_bio(to_client, to_server, session=session)
    server_end = server.wrap_bio(to_server, to_client, server_side=True)
    steps: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (client_end.do_handshake, server_end.do_handshake),
        (lambda: client_end.write(b"x"), lambda: server_end.read(1)),
        (lambda: server_end.write(b"x"), lambda: client_end.read(1)),
    ]
    for step in steps:
        waiting = list(step)
        for _ in range(8):
            for act in tuple(waiting):
                try:
                    act()
                    waiting.remove(act)
                except ssl.SSLWantReadError:
                    pass
        assert not waiting
    return server_end, client_end
