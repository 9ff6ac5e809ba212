"""Sockets that are bound to an address, and how addresses are written."""

from __future__ import annotations

import socket


def bind(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """A bound TCP socket that does not listen yet. Raises OSError, with the address as its `filename`."""
    infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = infos[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        error.filename = format_address(address)
        raise
    return sock


def format_address(address: object) -> str:
    """`host:port` of a socket address, `[host]:port` for IPv6, the path of a UNIX socket.

    An IPv4 client of a socket that takes both has an IPv4-mapped address (RFC 4291 section 2.5.5.2): it is written as
    the IPv4 address that everything else knows.
    """
    if isinstance(address, tuple):
        host, port = address[0], address[1]
        if "." in host:
            host = host.removeprefix("::ffff:")
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address)
