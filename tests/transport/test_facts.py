from __future__ import annotations

import pytest

from meshproxy.transport.facts import ConnectionFacts


def test_a_plain_connection_says_nothing_of_tls_and_of_nobody() -> None:
    facts = ConnectionFacts(direction="inbound", protocol="HTTP/2", remote="127.0.0.1:1", local="127.0.0.1:2")
    assert (facts.direction, facts.protocol, facts.remote, facts.local) == (
        "inbound",
        "HTTP/2",
        "127.0.0.1:1",
        "127.0.0.1:2",
    )
    assert (facts.tls_version, facts.alpn, facts.server_name) == ("", "", "")
    assert facts.peer is None
    assert facts.caller is None
    assert facts.original == ""


def test_there_is_one_for_each_connection_so_it_stays_small() -> None:
    facts = ConnectionFacts(direction="inbound", protocol="", remote="", local="")
    with pytest.raises(AttributeError):
        facts.anything = 1  # type: ignore[attr-defined]
