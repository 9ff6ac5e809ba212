"""Asks control planes for their status. What is made of it is decided in `control/fleet.py` and `control/check.py`."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from meshproxy.cli import _options
from meshproxy.cli._local_page import NoAnswer, get, read_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.control.check import Answer

DEFAULT = "127.0.0.1:18512"
HINT = (
    "name its web port (--control), or with --login its port of commands, 18513; in a cluster: kubectl -n meshproxy"
    " port-forward deploy/meshproxy-control 18512 (or 18513)"
)
"""What to do where no control plane answers."""
MARKS = ("√", "‼", "×")
"""Of the levels of `control.fleet.Level`, as `linkerd check` has them."""


def no_answer(where: str, why: object) -> str:
    """The message where none does: the address, the reason, and what to do."""
    return f"no control plane answers at {where}: {why}; {HINT}"


options = _options.together(
    click.option(
        "--control",
        "addresses",
        multiple=True,
        default=[DEFAULT],
        show_default=True,
        metavar="HOST:PORT",
        help="The web port of a control plane, on this host or forwarded to it; repeated for each one of the mesh.",
    ),
    click.option(
        "--timeout", default=10.0, show_default=True, help="Seconds to wait for the answer of a control plane."
    ),
)
"""`--control` and `--timeout`."""


def order_headers() -> dict[str, str]:
    """Of what only commands may ask for (`control.web_port.COMMAND_HEADER`): who asks, for the audit trail
    (`control.orders.USER_HEADER`)."""
    import getpass
    import socket

    headers = {"x-meshproxy-command": "1"}
    with suppress(KeyError, OSError):  # a user without a name
        headers["x-meshproxy-user"] = f"{getpass.getuser()}@{socket.gethostname()}"
    return headers


def ask(addresses: Sequence[str], timeout: float) -> list[Answer]:
    """What each of them says of itself."""
    where = [read_address(address, "--control", DEFAULT) for address in dict.fromkeys(addresses)]
    return [_ask(address, timeout) for address in where]


def _ask(address: tuple[str, int], timeout: float) -> Answer:
    from meshproxy.control.check import Answer
    from meshproxy.control.status import moment, read_status

    name = "{}:{}".format(*address)
    begun = time.time()
    try:
        code, page = get(address, "/status", timeout)
        # The answer says what was so at some time between.
        asked = moment((begun + time.time()) / 2)
        if code != 200:
            return Answer(name, asked, problem=f"it answers with status {code}: {_line(page)}")
        status = read_status(page)
        code, page = get(address, "/readyz", timeout)
    except NoAnswer as error:
        return Answer(name, moment(begun), problem=f"nothing answers at {name}: {error}")
    except ValueError as error:
        return Answer(name, moment(begun), problem=f"{name} is not the web port of a control plane: {error}")
    return Answer(name, asked, status, unready="" if code == 200 else f"/readyz answers {code}: {_line(page)}")


def _line(page: bytes) -> str:
    """The beginning of a page."""
    return " ".join(page[:200].decode("utf-8", "replace").split())
