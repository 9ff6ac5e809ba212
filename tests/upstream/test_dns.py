from __future__ import annotations

import asyncio
import logging
from typing import Any

import dns.name
import dns.rcode
import pytest
from dns.asyncresolver import Resolver
from dns.nameserver import Do53Nameserver

from meshproxy.config.servers import Dns
from meshproxy.config.values import Address
from meshproxy.upstream import dns as module
from meshproxy.upstream import dns_lookup
from meshproxy.upstream.discovery import MOST_ENDPOINTS, EndpointAddress
from meshproxy.upstream.dns import DnsDiscovery

NAME = "models.test."


def searching(zone: Any, *domains: str) -> Resolver:
    """A resolver with a search list, as that of a pod."""
    resolver = Resolver(configure=False)
    resolver.nameservers = [Do53Nameserver("127.0.0.1", zone.port)]
    resolver.search = list(map(dns.name.from_text, domains))
    resolver.ndots = 5
    return resolver


class Looking:
    """A discovery at work, and what it has said."""

    def __init__(self, zone: Any, **changes: Any) -> None:
        self.told: list[tuple[EndpointAddress, ...]] = []
        self.failures: list[str] = []
        system = changes.pop("system", None)
        settings = {"name": "models.test", "min_refresh": 0.01, "max_refresh": 0.02}
        if system is None:
            settings["name_server"] = Address("127.0.0.1", zone.port)
        if not {"rest", "sidecar", "srv"} & set(changes):
            settings["grpc"] = 8500
        self.discovery = DnsDiscovery(
            asyncio.get_running_loop(),
            Dns(**{**settings, **changes}),
            self.failures.append,
            system=lambda: system,
            draw=lambda: 0.5,
        )
        self.discovery.start(self.told.append)

    async def until(self, condition: Any) -> None:
        """Returns when `condition()` holds; the time limit of the test is the only one."""
        while not condition():
            await asyncio.sleep(0)

    async def addresses(self) -> list[str]:
        """Of the first set that is told, as gRPC's or whatever there is."""
        await self.until(lambda: self.told)
        return [each.grpc or each.rest or each.sidecar or "" for each in self.told[-1]]

    async def __aenter__(self) -> Looking:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.discovery.close()


async def test_addresses_of_both_families_in_an_order_of_their_own(zone: Any) -> None:
    zone.put(NAME, "A", "10.0.0.10", "10.0.0.9")
    zone.put(NAME, "AAAA", "fd00::1")
    async with Looking(zone) as looking:
        assert await looking.addresses() == ["10.0.0.9:8500", "10.0.0.10:8500", "[fd00::1]:8500"]
        asked = zone.asked.total()
        zone.put(NAME, "A", "10.0.0.9", "10.0.0.10")
        await looking.until(lambda: zone.asked.total() >= asked + 8)
    assert len(looking.told) == 1
    assert looking.failures == []


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ({"rest": 8501}, EndpointAddress(rest="10.0.0.1:8501")),
        ({"rest": 8501, "grpc": 8500}, EndpointAddress(rest="10.0.0.1:8501", grpc="10.0.0.1:8500")),
        ({"sidecar": 18500}, EndpointAddress(sidecar="10.0.0.1:18500")),
    ],
)
async def test_the_ports_are_those_of_the_document(zone: Any, ports: dict[str, int], expected: EndpointAddress) -> None:
    zone.put(NAME, "A", "10.0.0.1")
    async with Looking(zone, **ports) as looking:
        await looking.addresses()
    assert looking.told == [(expected,)]


async def test_a_change_is_seen_when_the_answer_is_over(zone: Any) -> None:
    zone.put(NAME, "A", "10.0.0.1")
    async with Looking(zone) as looking:
        await looking.addresses()
        zone.put(NAME, "A", "10.0.0.2", "10.0.0.1")
        await looking.until(lambda: len(looking.told) == 2)
    assert looking.told[1] == (EndpointAddress(grpc="10.0.0.1:8500"), EndpointAddress(grpc="10.0.0.2:8500"))


@pytest.mark.parametrize("how", ["SERVFAIL", "NXDOMAIN", "nothing", "silence"])
async def test_what_cannot_be_had_keeps_what_there_was_until_it_can(
    zone: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_lookup, "LIFETIME_SECONDS", 0.5)
    zone.put(NAME, "A", "10.0.0.1")
    async with Looking(zone) as looking:
        await looking.addresses()
        kinds = [(NAME, "A"), (NAME, "AAAA")]
        if how == "SERVFAIL":
            zone.rcodes.update(dict.fromkeys(kinds, dns.rcode.SERVFAIL))
        elif how == "silence":
            zone.silent.update(kinds)
        else:
            zone.records.clear()
            if how == "nothing":
                zone.put(NAME, "TXT", "x")
        await looking.until(lambda: len(looking.failures) >= 2)
        expected = {"SERVFAIL": "SERVFAIL", "silence": "no answer within"}.get(how, "models.test. has no addresses")
        assert expected in looking.failures[0]
        assert looking.failures[0].startswith("models.test: ")
        assert len(looking.told) == 1
        zone.rcodes.clear()
        zone.silent.clear()
        zone.put(NAME, "A", "10.0.0.2")
        await looking.until(lambda: len(looking.told) == 2)
    assert looking.told[1] == (EndpointAddress(grpc="10.0.0.2:8500"),)


async def test_a_family_that_cannot_be_had_keeps_what_it_had(zone: Any) -> None:
    zone.put(NAME, "A", "10.0.0.1")
    zone.put(NAME, "AAAA", "fd00::1")
    async with Looking(zone) as looking:
        await looking.addresses()
        zone.rcodes[NAME, "AAAA"] = dns.rcode.SERVFAIL
        zone.put(NAME, "A", "10.0.0.2")
        await looking.until(lambda: len(looking.told) == 2)
    assert [each.grpc for each in looking.told[1]] == ["10.0.0.2:8500", "[fd00::1]:8500"]
    assert "SERVFAIL" in looking.failures[0]


async def test_one_family_is_enough_to_begin_with(zone: Any) -> None:
    zone.put(NAME, "A", "10.0.0.1")
    zone.rcodes[NAME, "AAAA"] = dns.rcode.NOTIMP
    async with Looking(zone) as looking:
        assert await looking.addresses() == ["10.0.0.1:8500"]


async def test_half_an_answer_without_addresses_is_none(zone: Any) -> None:
    zone.put(NAME, "TXT", "x")
    zone.rcodes[NAME, "A"] = dns.rcode.SERVFAIL
    async with Looking(zone) as looking:
        await looking.until(lambda: looking.failures)
    assert "SERVFAIL" in looking.failures[0]
    assert looking.told == []


async def test_more_than_a_packet_holds_comes_over_tcp(zone: Any) -> None:
    zone.put(NAME, "A", *(f"10.0.{i // 250}.{i % 250}" for i in range(1, MOST_ENDPOINTS + 11)))
    zone.truncates = True
    async with Looking(zone) as looking:
        assert len(await looking.addresses()) == MOST_ENDPOINTS
    assert zone.asked[NAME, "A", "tcp"] >= 1
    assert "models.test: of 1010 endpoints only 1000 are used" in looking.failures


async def test_targets_with_their_addresses(zone: Any) -> None:
    zone.put(NAME, "SRV", "0 0 8500 a.test.", "0 0 8510 b.test.", "0 0 8511 b.test.")
    zone.put("b.test.", "A", "10.0.0.2")
    zone.put("b.test.", "AAAA", "fd00::2")
    zone.additional = [("a.test.", "A", "10.0.0.1")]
    async with Looking(zone, srv="grpc") as looking:
        assert await looking.addresses() == [
            "10.0.0.1:8500",
            "10.0.0.2:8510",
            "10.0.0.2:8511",
            "[fd00::2]:8510",
            "[fd00::2]:8511",
        ]
    assert not any(name == "a.test." for name, _, _ in zone.asked)


async def test_targets_are_of_the_surface_that_is_named(zone: Any) -> None:
    zone.put(NAME, "SRV", "0 0 18500 a.test.")
    zone.put("a.test.", "A", "10.0.0.1")
    async with Looking(zone, srv="sidecar") as looking:
        await looking.addresses()
    assert looking.told == [(EndpointAddress(sidecar="10.0.0.1:18500"),)]


async def test_a_target_that_cannot_be_had_keeps_what_it_had(zone: Any) -> None:
    zone.put(NAME, "SRV", "0 0 1 a.test.", "0 0 2 b.test.")
    zone.put("a.test.", "A", "10.0.0.1")
    zone.put("b.test.", "A", "10.0.0.2")
    async with Looking(zone, srv="grpc") as looking:
        await looking.addresses()
        zone.rcodes.update({("b.test.", "A"): dns.rcode.SERVFAIL, ("b.test.", "AAAA"): dns.rcode.SERVFAIL})
        zone.put("a.test.", "A", "10.0.0.3")
        await looking.until(lambda: len(looking.told) == 2)
        await looking.until(lambda: len(looking.failures) >= 2)
    assert [each.grpc for each in looking.told[-1]] == ["10.0.0.2:2", "10.0.0.3:1"]
    assert len(looking.told) == 2


async def test_no_target_is_known(zone: Any) -> None:
    zone.put(NAME, "SRV", "0 0 1 a.test.")
    zone.rcodes.update({("a.test.", "A"): dns.rcode.SERVFAIL, ("a.test.", "AAAA"): dns.rcode.SERVFAIL})
    async with Looking(zone, srv="grpc") as looking:
        await looking.until(lambda: looking.failures)
        assert "SERVFAIL" in looking.failures[0]
        zone.put(NAME, "SRV", "0 0 1 .")
        await looking.until(lambda: "no targets" in looking.failures[-1])
    assert looking.told == []


async def test_the_search_list_is_gone_through_and_then_the_name_is_known(zone: Any) -> None:
    system = searching(zone, "ns.test", "test")
    zone.put("models.test.", "A", "10.0.0.1")
    zone.put("models.", "A", "10.66.66.66")
    async with Looking(zone, name="models", system=system) as looking:
        assert await looking.addresses() == ["10.0.0.1:8500"]
        zone.put("models.ns.test.", "A", "10.0.0.9")
        del zone.records["models.test.", "A"]
        await looking.until(lambda: len(looking.failures) >= 2)
    assert len(looking.told) == 1
    assert zone.asked["models.ns.test.", "A", "udp"] == 1
    assert zone.asked["models.", "A", "udp"] == 0


async def test_no_name_counts_while_one_before_it_may_exist(zone: Any) -> None:
    system = searching(zone, "test")
    zone.rcodes["models.test.", "A"] = dns.rcode.SERVFAIL
    zone.put("models.", "A", "10.66.66.66")
    async with Looking(zone, name="models", system=system) as looking:
        await looking.until(lambda: len(looking.failures) >= 2)
    assert looking.told == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [("localhost", "127.0.0.1:8500"), ("models.localhost", "127.0.0.1:8500"), ("10.0.0.7", "10.0.0.7:8500")],
)
async def test_what_is_an_address_is_not_looked_up(zone: Any, name: str, expected: str) -> None:
    looking = Looking(zone, name=name)
    assert looking.told == [(EndpointAddress(grpc=expected),)]
    await looking.discovery.close()
    assert zone.asked.total() == 0


async def test_a_mistake_does_not_end_it(
    zone: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> None:
        monkeypatch.undo()
        raise KeyError("x")

    monkeypatch.setattr(module, "look_up_addresses", broken)
    zone.put(NAME, "A", "10.0.0.1")
    with caplog.at_level(logging.CRITICAL, module.__name__):
        async with Looking(zone) as looking:
            assert await looking.addresses() == ["10.0.0.1:8500"]
    assert len(looking.failures) == 1


async def test_nothing_is_left_after_the_end(zone: Any) -> None:
    zone.put(NAME, "A", "10.0.0.1")
    async with Looking(zone) as looking:
        await looking.addresses()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(("ttl", "draw", "expected"), [(0, 0.0, 2.0), (5, 0.0, 5.0), (5, 1.0, 5.5), (900, 0.5, 31.5)])
async def test_how_long_an_answer_holds(zone: Any, ttl: int, draw: float, expected: float) -> None:
    waits = await waited(zone, ttl, draw, 1)
    assert waits == [pytest.approx(expected)]


async def test_failures_are_asked_again_more_and_more_slowly(zone: Any) -> None:
    zone.rcodes[NAME, "A"] = dns.rcode.SERVFAIL
    assert await waited(zone, 5, 0.0, 7) == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


async def waited(zone: Any, ttl: int, draw: float, count: int) -> list[float]:
    """How long it wanted to wait after each of the first rounds."""
    zone.ttl = ttl
    zone.put(NAME, "A", "10.0.0.1")
    waits: list[float] = []
    done = asyncio.Event()

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == count:
            done.set()
            await asyncio.Event().wait()

    discovery = DnsDiscovery(
        asyncio.get_running_loop(),
        Dns(
            name="models.test",
            grpc=1,
            name_server=Address("127.0.0.1", zone.port),
            min_refresh=2.0,
            max_refresh=30.0,
        ),
        lambda reason: None,
        draw=lambda: draw,
        sleep=wait,
    )
    discovery.start(lambda found: None)
    await done.wait()
    await discovery.close()
    return waits
