"""The record, before anything is known, and how its flags are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.events import RequestHead
from meshproxy.identity.caller import ANONYMOUS
from meshproxy.proxy.exchange import NO_FLAGS, Exchange, ResponseFlags
from meshproxy.transport.connection_info import ConnectionInfo

FACTS = ConnectionInfo(direction="inbound", protocol="HTTP/2", remote="127.0.0.1:1", local="127.0.0.1:2")
HEAD = RequestHead(1, b"GET", b"host", b"/", (), end=True)


def test_of_a_request_that_is_refused_at_once_telemetry_can_read_everything() -> None:
    exchange = Exchange(HEAD, FACTS, started=12.5)
    unset = [name for name in Exchange.__slots__ if not hasattr(exchange, name)]
    assert unset == []
    assert exchange.caller is ANONYMOUS
    assert exchange.asked is exchange.forwarded is exchange.arm is exchange.refusal is None
    assert exchange.flags is NO_FLAGS
    assert exchange.attempts == ()


@given(st.sets(st.sampled_from(list(ResponseFlags.__members__.values()))))
def test_flags_are_written_in_envoys_letters_and_none_is_lost(flags: set[ResponseFlags]) -> None:
    joined = NO_FLAGS
    for flag in flags:
        joined |= flag
    assert set(str(joined).split(",")) - {""} == {flag.name for flag in flags}
    assert (joined is NO_FLAGS) == (not flags)


@pytest.mark.parametrize("flag", ["UH", "UF", "UO", "NR", "UC", "UPE", "UT", "DC", "SI", "RL", "FI", "DI", "DT"])
def test_each_flag_has_the_name_that_the_access_log_promises(flag: str) -> None:
    assert str(ResponseFlags[flag]) == flag
