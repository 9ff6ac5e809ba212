from __future__ import annotations

from meshproxy.codec.role import LocalProtocolError, Role


def test_there_are_two_ends() -> None:
    assert {role.name for role in Role} == {"CLIENT", "SERVER"}


def test_local_misuse_is_never_taken_for_the_peers_fault() -> None:
    # Parsers inside the codecs catch ValueError; ours must pass through them and be seen.
    assert LocalProtocolError.__mro__[1:] == (Exception, BaseException, object)
