"""The namespaces themselves need root: tests/e2e/test_node.py."""

from __future__ import annotations

from meshproxy.devtools.node.network import machine_links, pod_address, pod_links


def test_every_pod_has_an_address_of_its_own() -> None:
    addresses = [pod_address(number) for number in range(600)]
    assert (addresses[0], addresses[249], addresses[250]) == ("10.78.1.1", "10.78.1.250", "10.78.2.1")
    assert len(set(addresses)) == 600


def test_links_of_a_pod() -> None:
    machine = machine_links("netns", 3).splitlines()
    assert machine[0] == "link add pod3 type veth peer name eth0 netns netns"
    assert machine[-1] == "route add 10.78.1.4 dev pod3"
    assert pod_links(3).splitlines()[1] == "addr add 10.78.1.4/32 dev eth0"
