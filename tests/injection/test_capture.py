"""Rules of nftables: what they say here, and what they do in tests/drills/test_capture.py."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.injection.capture import MAX_PORT, Capture, CaptureError, rules

PORTS = st.lists(st.integers(1, MAX_PORT).filter(lambda port: port != 18500), max_size=4).map(tuple)


def chain(name: str, program: str) -> list[str]:
    """The lines of a chain, without its hook; empty if there is none."""
    _, found, rest = program.partition(f"\tchain {name} {{\n")
    return [line.strip() for line in rest.partition("\t}")[0].splitlines()[1:]] if found else []


def test_inbound() -> None:
    program = rules(Capture(inbound=(8501, 8500, 8500), to_inbound=19000))
    assert chain("inbound", program) == ['iifname "lo" return', "tcp dport { 8500, 8501 } redirect to :19000"]
    assert not chain("outbound", program)
    assert not chain("guard", program)


def test_outbound_leaves_the_sidecar_and_excluded_destinations_alone() -> None:
    networks = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    program = rules(Capture(outbound=(8500,), excluded=networks, user=1000, to_outbound=19001))
    assert chain("outbound", program) == [
        "meta skuid 1000 return",
        'oifname "lo" return',
        "ip daddr 10.0.0.0/8 return",
        "ip6 daddr fd00::/8 return",
        "tcp dport { 8500 } redirect to :19001",
    ]
    assert chain("guard", program) == ['iifname != "lo" tcp dport 19001 reject with tcp reset']
    assert not chain("inbound", program)


@given(PORTS, PORTS)
def test_the_sidecar_passes_before_anything_is_redirected(inbound: tuple[int, ...], outbound: tuple[int, ...]) -> None:
    if not inbound and not outbound:
        return
    program = rules(Capture(inbound=inbound, outbound=outbound))
    assert program.startswith("add table inet meshproxy\ndelete table inet meshproxy\n")
    assert program.count("{") == program.count("}")
    if outbound:
        lines = chain("outbound", program)
        assert lines[0] == "meta skuid 65532 return"
        assert [number for number, line in enumerate(lines) if "redirect" in line] == [len(lines) - 1]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "nothing is captured"),
        ({"inbound": (0,)}, "inbound: 0 is not a port"),
        ({"outbound": (65_536,)}, "outbound: 65536 is not a port"),
        ({"inbound": (1,), "to_outbound": 0}, "port of the sidecar: 0 is not a port"),
        ({"inbound": (8500, 18500)}, "the sidecar's own port"),
        ({"inbound": (1,), "user": -1}, "not a user id"),
    ],
)
def test_what_captures_nothing_or_itself(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(CaptureError, match=problem):
        Capture(**settings)  # type: ignore[arg-type]
