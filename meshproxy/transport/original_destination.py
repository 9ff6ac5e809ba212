"""Where a connection was meant to go before the kernel redirected it to us: SO_ORIGINAL_DST.

A REDIRECT rule of iptables or nftables rewrites the destination, and connection tracking remembers the one before
(linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h). What comes back is a `sockaddr_in` or a `sockaddr_in6`
(ip(7), ipv6(7)): the family in the byte order of the host, port and address in that of the network.
"""

from __future__ import annotations

import socket
import struct

SO_ORIGINAL_DST = 80
"""Of IPv4; IP6T_SO_ORIGINAL_DST, of IPv6, is the same number. Python has a name for neither."""
_FAMILY = struct.Struct("=H")
_IPV4 = struct.Struct("!2xH4s8x")
_IPV6 = struct.Struct("!2xHI16sI")
_MAPPED = "::ffff:"
"""Before an IPv4 address on a socket that takes both (RFC 4291 section 2.5.5.2)."""


def original_destination(sock: socket.socket) -> str | None:
    """`address:port` that the client of an accepted socket dialled, `[address]:port` for IPv6; None if that was us.

    Never raises: a socket that was not redirected, or is none of TCP, has no other destination than its own.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        host, port = sock.getsockname()[:2]
        if sock.family == socket.AF_INET or host.startswith(_MAPPED):
            own = f"{host.removeprefix(_MAPPED)}:{port}"
            found = read_address(sock.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, _IPV4.size))
        else:
            own = f"[{host.partition('%')[0]}]:{port}"
            found = read_address(sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, _IPV6.size))
    except OSError:
        return None
    return found if found != own else None


def read_address(data: bytes) -> str | None:
    """A `sockaddr_in` or `sockaddr_in6` as text; None if it is neither."""
    if len(data) >= _FAMILY.size:
        (family,) = _FAMILY.unpack_from(data)
        if family == socket.AF_INET and len(data) == _IPV4.size:
            port, address = _IPV4.unpack(data)
            return f"{socket.inet_ntop(socket.AF_INET, address)}:{port}"
        if family == socket.AF_INET6 and len(data) == _IPV6.size:
            port, _, address, _ = _IPV6.unpack(data)
            return f"[{socket.inet_ntop(socket.AF_INET6, address)}]:{port}"
    return None
