"""Who gives an order at the web port, which takes them from this host only: what the command says of itself, and which
user the connection is of, which the kernel knows.

Neither proves who sits there: a command can say anything, and a connection that `kubectl port-forward` has made is of
the user that the kubelet has in the pod. Who forwarded the port is in the audit log of Kubernetes.
"""

from __future__ import annotations

import pwd
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

USER_HEADER = "x-meshproxy-user"
"""`user@host`, as the command sees itself."""
TABLE_BYTES = 16 << 20
"""Of the kernel's table of connections that are looked at, at most: a hundred thousand rows."""
_CLAIM = re.compile(r"[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9._-]{1,64}")
_TABLE, _TABLE_6 = Path("/proc/net/tcp"), Path("/proc/net/tcp6")


def who_orders(request: web.Request) -> str:
    """`alice@laptop (user alice)`; in parentheses is what the kernel says. Blocks for as long as it takes to read a
    file of /proc."""
    claim = request.headers.get(USER_HEADER, "")
    said = claim if _CLAIM.fullmatch(claim) else "somebody"
    return f"{said} ({_user(request)})"


def _user(request: web.Request) -> str:
    transport = request.transport
    if transport is None:
        return "user not known"
    own = transport.get_extra_info("socket")
    uid = None
    with suppress(OSError):  # no Linux, or the connection has ended
        peer, here = own.getpeername(), own.getsockname()
        ends = [(str(end[0]).removeprefix("::ffff:"), end[1]) for end in (peer, here)]
        with (_TABLE_6 if ":" in ends[0][0] else _TABLE).open() as table:
            uid = find_owner(table.readlines(TABLE_BYTES), *ends)
    if uid is None:
        return "user not known"
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def find_owner(table: list[str], local: tuple[str, int], remote: tuple[str, int]) -> int | None:
    """The user of the connection between two addresses of this host, of the end that has the address `local`.

    Args:
        table: lines of /proc/net/tcp or /proc/net/tcp6 (proc_pid_net(5)).
        local: IP address and port.
        remote: of the other end.
    """
    wanted = [_hex(local), _hex(remote)]
    for line in table:
        fields = line.split()
        if len(fields) > 7 and fields[1:3] == wanted and fields[7].isdecimal():
            return int(fields[7])
    return None


def _hex(address: tuple[str, int]) -> str:
    """As the kernel writes it: words of four bytes, each in the order of the host, and the port."""
    host, port = address
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    words = [packed[at : at + 4] for at in range(0, len(packed), 4)]
    return "".join([f"{socket.ntohl(int.from_bytes(word, 'big')):08X}" for word in words]) + f":{port:04X}"
