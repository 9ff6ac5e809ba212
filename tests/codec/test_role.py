"""The two ends: each codec plays either, and refuses commands that are not for its end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshproxy.codec.h1.connection import H1Connection
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import LocalProtocolError, Role


def h1(role: Role) -> H1Connection:
    return H1Connection(role, Limits())


def h2(role: Role) -> H2Connection:
    return H2Connection(role, Limits(), 0.0)


def ask_over_h1(connection: H1Connection) -> bytes:
    return connection.send_request(b"GET", b"/", b"a", (), True)


def ask_over_h2(connection: H2Connection) -> bytes:
    connection.send_request(b"GET", b"http", b"a", b"/", (), True)
    return connection.take_output()


@pytest.mark.parametrize(
    "command",
    [
        lambda: ask_over_h1(h1(Role.SERVER)),
        lambda: ask_over_h2(h2(Role.SERVER)),
        lambda: h1(Role.CLIENT).send_response(200, (), True),
        lambda: h1(Role.SERVER).send_response(200, (), True),
        lambda: h1(Role.CLIENT).send_data(b"x", True),
    ],
    ids=["request of an h1 server", "request of an h2 server", "response of a client", "unasked response", "no head"],
)
def test_commands_for_the_other_end_are_our_own_bug(command: Callable[[], object]) -> None:
    with pytest.raises(LocalProtocolError):
        command()


def test_an_h2_client_does_not_answer_its_own_request() -> None:
    connection = h2(Role.CLIENT)
    ask_over_h2(connection)
    with pytest.raises(LocalProtocolError):
        connection.send_response(1, 200, (), True)


def test_a_bug_of_ours_is_not_caught_with_what_a_peer_sends() -> None:
    """Parsers inside the codecs catch ValueError, which this must not be."""
    assert not issubclass(LocalProtocolError, ValueError)
