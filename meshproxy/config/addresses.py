"""Where a model server is: `HOST:PORT` or the path of a UNIX socket; and where its metrics page is there."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import TYPE_CHECKING

from meshproxy.codec.headers import ORIGIN_FORM
from meshproxy.config.values import ends_in_number, read_endpoint_address, read_host_name, shown

if TYPE_CHECKING:
    from pathlib import Path

SOCKET_PATH_BYTES = 107
"""The longest path of a UNIX socket: `sun_path` has 108 bytes on Linux, the last of which is a zero (unix(7))."""
UNIX = "unix:"

_METRICS_PATH = re.compile(r"(?=.{2,256}\Z)(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]+)+/?")
_AMBIGUOUS = re.compile(r"[%?#]")
"""gRPC takes what follows `unix:` for a part of a URI, in which these have a meaning; others take it as it is."""


def read_server_address(value: object) -> str:
    """`HOST:PORT`, or `unix:PATH` as in gRPC's names, where `unix:///PATH` is the same for an absolute path."""
    if isinstance(value, str):
        if value.startswith(("unix-abstract:", "unix:@")):
            raise ValueError(
                f"{shown(value)} is an abstract socket, whose name any process of the network namespace could take: "
                'use a path, such as "unix:/run/serving/grpc.sock"'
            )
        if value.startswith(UNIX):
            return UNIX + _read_socket_path(value)
        if value.startswith(("/", "./", "../")):
            raise ValueError(f'expected "HOST:PORT" or "unix:PATH", got {shown(value)}: write "unix:" before the path')
    return str(read_endpoint_address(value))


def _read_socket_path(value: str) -> str:
    """The path of an address that begins with `unix:`."""
    path = value.removeprefix(UNIX)
    if path.startswith("//"):
        path = path.removeprefix("//")
        if not path.startswith("/"):
            raise ValueError(f'{shown(value)} names a host before the path: write "unix:///PATH" or "unix:PATH"')
    if path.isdigit():
        raise ValueError(f'{shown(value)} may be a port of the host "unix": write "unix:./{path}" for a socket')
    if not path or path.endswith("/") or path.startswith("//"):
        raise ValueError(f'expected "unix:" and the path of a socket, got {shown(value)}')
    if not path.isprintable() or _AMBIGUOUS.search(path):
        raise ValueError(f'{shown(value)} contains a control character, "%", "?" or "#", which gRPC reads differently')
    return path


def read_server_name(value: object) -> str:
    """What a server's certificate is to have as a subjectAltName: a DNS name in lower case, or an IP address."""
    if isinstance(value, str):
        try:
            return str(ipaddress.ip_address(value.removeprefix("[").removesuffix("]")))
        except ValueError:
            if not ends_in_number(value):
                return read_host_name(value)
    raise ValueError(f"expected a host name or an IP address, got {shown(value)}")


def resolve_server_address(folder: Path, address: str) -> str:
    """The address with the path of its UNIX socket, if it has one, from the folder of the document on."""
    if not address.startswith(UNIX):
        return address
    path = str(folder / address.removeprefix(UNIX))
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_BYTES:
        raise ValueError(
            f"the path of a UNIX socket has at most {SOCKET_PATH_BYTES} bytes, {shown(path, 120)} has {size}: "
            "use a shorter folder"
        )
    return UNIX + path


def read_metrics_path(value: object) -> str:
    """The path of a page on a model server's REST port, with one spelling: nothing in it is escaped, or an escape."""
    if not isinstance(value, str) or not _METRICS_PATH.fullmatch(value):
        raise ValueError(
            f'expected a path such as "/metrics" (letters, digits and - . _ ~ / only, up to 256), got {shown(value)}'
        )
    if f"{value}/".lower().startswith("/v1/"):
        raise ValueError(f"{shown(value)} may be a model's: paths below /v1/ are those of models")
    return value


def read_check_path(value: object) -> str:
    """The path of a health check, and the query if there is one, as they are sent."""
    if isinstance(value, str) and len(value) <= 1024 and value.isascii() and re.fullmatch(ORIGIN_FORM, value.encode()):
        return value
    raise ValueError(f'expected a path such as "/healthz", percent-encoded, without a host, got {shown(value)}')


def is_inside_cluster(host: str) -> bool:
    """Whether a host can only be one of the cluster's network: a name without dots, one with the label `svc`
    (`keycloak.auth.svc.cluster.local`), or a private address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        labels = host.rstrip(".").split(".")
        return (len(labels) == 1 and not labels[0].isdigit()) or "svc" in labels[1:]
    return address.is_private and not (address.is_loopback or address.is_link_local or address.is_unspecified)
