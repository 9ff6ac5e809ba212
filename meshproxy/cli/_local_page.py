"""Pages of ports that answer clients on the same host only."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException

import click

MOST_CHARACTERS = 500
"""That are shown of what whoever listens there says."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class NoAnswer(Exception):
    """There is no page. The text says why."""


def read_address(address: str, option: str, default: str) -> tuple[str, int]:
    """The HOST:PORT of an option. Raises BadParameter if it is none, or not on this host."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if "/" in address or not port.isdecimal() or not 0 < int(port) < 65_536:  # a URL is none of another host
        raise click.BadParameter(f"expected HOST:PORT, such as {default}", param_hint=option)
    if host not in LOOPBACK:
        raise click.BadParameter(
            f"that port answers on loopback only: run this on its host, with 127.0.0.1:{port}", param_hint=option
        )
    return host, int(port)


def get(address: tuple[str, int], path: str, timeout: float) -> tuple[int, bytes]:
    """The status and the body of a page. Raises NoAnswer."""
    return _call("GET", address, path, {}, timeout)


def post(address: tuple[str, int], path: str, headers: dict[str, str], timeout: float) -> tuple[int, bytes]:
    """The status and the body of the answer to an order. Raises NoAnswer."""
    return _call("POST", address, path, headers, timeout)


def _call(
    method: str, address: tuple[str, int], path: str, headers: dict[str, str], timeout: float
) -> tuple[int, bytes]:
    connection = HTTPConnection(*address, timeout=timeout)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, HTTPException) as error:
        raise NoAnswer(failure(error, timeout)) from None
    finally:
        connection.close()


def printable(text: str) -> str:
    """Text of somebody else on a terminal: what could move the cursor is escaped."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def failure(error: OSError | HTTPException, timeout: float) -> str:
    """Why there is no answer."""
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s: it hangs, or another process listens there"
    # What is said may be of any process that listens there.
    return printable((getattr(error, "strerror", None) or str(error) or type(error).__name__)[:MOST_CHARACTERS])
