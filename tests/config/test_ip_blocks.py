"""Blocks of addresses: their one form, and what is in them, against `ipaddress`."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.ip_blocks import IpBlocks, address_of, are_within, hold_all, read_ip_block


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("FD00:0::/8", "fd00::/8"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/80", "::/80"),
    ],
)
def test_a_block_has_one_form(text: str, block: str) -> None:
    assert read_ip_block(text) == block
    assert read_ip_block(block) == block


BAD_LENGTHS = ["10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/255.0.0.0", "10.0.0.0 /8", "10.0.0.0/8\n"]
BAD_ADDRESSES = ["", "10.0.0", "10", "010.0.0.0/8", "fe80::1%eth0", "[::1]", "10.0.0.1:80", "host/8", "*"]


@pytest.mark.parametrize("bad", [*BAD_LENGTHS, *BAD_ADDRESSES, 10, None, ["10.0.0.0/8"]])
def test_what_is_no_block(bad: object) -> None:
    with pytest.raises(ValueError, match="expected an IP address or a block"):
        read_ip_block(bad)


@pytest.mark.parametrize(
    ("text", "block", "address"),
    [
        ("10.0.0.5/8", "10.0.0.0/8", "10.0.0.5"),
        ("fd00::1/8", "fd00::/8", "fd00::1"),
        ("::ffff:10.0.0.5/104", "10.0.0.0/8", "10.0.0.5"),
    ],
)
def test_bits_beyond_the_prefix_are_an_error_with_both_ways_out(text: str, block: str, address: str) -> None:
    with pytest.raises(ValueError, match="has bits beyond its prefix") as caught:
        read_ip_block(text)
    assert f'"{block}" for the block' in str(caught.value)
    assert f'or "{address}' in str(caught.value)
    read_ip_block(block)


@pytest.mark.parametrize("text", ["::ffff:0:0/90", "::ffff:10.0.0.0/8", "::ffff:10.0.0.5/95"])
def test_a_block_around_all_ipv4_mapped_addresses_is_an_error(text: str) -> None:
    """No IPv4 client is in it: their addresses are those of IPv4."""
    with pytest.raises(ValueError, match="no IPv4 client is in one: write the block of IPv4"):
        read_ip_block(text)


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("192.0.2.1:40000", "192.0.2.1"),
        ("[2001:db8::1]:1", "2001:db8::1"),
        ("[fe80::1%eth0]:1", "fe80::1"),
        ("[::ffff:192.0.2.1]:1", "192.0.2.1"),
    ],
)
def test_the_address_of_a_connection(remote: str, address: str) -> None:
    expected = ip_address(address)
    assert address_of(remote) == (expected.version, int(expected))


@pytest.mark.parametrize("remote", ["", ":1", "/run/serving.sock", "localhost:1", "1.2.3:4"])
def test_a_connection_without_one(remote: str) -> None:
    assert address_of(remote) is None


@pytest.mark.parametrize(
    ("blocks", "all_of_them"),
    [
        (["0.0.0.0/0"], True),
        (["10.0.0.0/8", "::/0"], True),
        (["::ffff:0:0/96"], True),
        (["128.0.0.0/2", "192.0.0.0/2", "0.0.0.0/1"], True),
        (["0.0.0.0/1", "::/1"], False),
        (["0.0.0.0/1", "128.0.0.0/2"], False),
        (["0.0.0.0"], False),
        ([], False),
    ],
)
def test_all_addresses_of_a_family(blocks: list[str], all_of_them: bool) -> None:
    assert hold_all([read_ip_block(block) for block in blocks]) is all_of_them


@pytest.mark.parametrize(
    ("blocks", "others", "within"),
    [
        (["10.1.0.0/16", "10.2.0.1"], ["10.0.0.0/8"], True),
        (["10.0.0.0/8"], ["10.0.0.0/9", "10.128.0.0/9"], True),
        (["10.0.0.0/8"], ["10.0.0.0/9", "11.0.0.0/8"], False),
        (["10.0.0.0/8", "::1"], ["10.0.0.0/8"], False),
        (["10.0.0.1"], ["::/0"], False),
        (["10.0.0.1"], [], False),
    ],
)
def test_whether_others_hold_all_of_the_blocks(blocks: list[str], others: list[str], within: bool) -> None:
    assert are_within([read_ip_block(block) for block in blocks], [read_ip_block(block) for block in others]) is within


def test_families_are_apart() -> None:
    assert (4, 0) not in IpBlocks(["::/0"])
    assert (6, 0) not in IpBlocks(["0.0.0.0/0"])
    assert (4, 1) in IpBlocks(["::/0", "0.0.0.0/0"])
    assert (4, 1) not in IpBlocks([])


networks = st.one_of(
    st.ip_addresses(v=4).flatmap(lambda ip: st.integers(0, 32).map(lambda n: ip_network((ip, n), strict=False))),
    st.ip_addresses(v=6).flatmap(lambda ip: st.integers(0, 128).map(lambda n: ip_network((ip, n), strict=False))),
)


@given(st.lists(networks, max_size=4), st.data())
def test_membership_is_that_of_the_standard_library(
    blocks: list[IPv4Network | IPv6Network], data: st.DataObject
) -> None:
    inside = [st.ip_addresses(network=block) for block in blocks]
    address = data.draw(st.one_of(st.ip_addresses(), *inside))
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    mapped = IPv6Network("::ffff:0:0/96")
    plain = [block for block in blocks if not (isinstance(block, IPv6Network) and block.subnet_of(mapped))]
    compiled = IpBlocks([read_ip_block(str(block)) for block in plain])
    remote = f"[{address}]:1" if address.version == 6 else f"{address}:1"
    found = address_of(remote)
    assert found is not None
    assert (found in compiled) == any(address in block for block in plain)
