from __future__ import annotations

import asyncio
import io
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.name
import dns.rcode
import pytest
from dns.asyncresolver import Resolver
from dns.nameserver import Do53Nameserver
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.values import Address
from meshproxy.upstream import dns_lookup
from meshproxy.upstream.dns_lookup import (
    AAAA,
    A,
    Addresses,
    LookupFailed,
    Targets,
    find_name,
    look_up_addresses,
    look_up_targets,
    resolver_at,
    system_resolver,
)

NAME = dns.name.from_text("models.test.")


def hosts(*texts: str) -> tuple[Any, ...]:
    return tuple(map(ip_address, texts))


async def at(port: int) -> Resolver:
    return await resolver_at(asyncio.get_running_loop(), Address("127.0.0.1", port))


async def addresses(zone: Any, kind: Any = A) -> Addresses:
    return await look_up_addresses(await at(zone.port), NAME, kind)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_lookup, "TRY_SECONDS", 0.05)
    monkeypatch.setattr(dns_lookup, "LIFETIME_SECONDS", 0.4)


async def test_addresses_and_their_ttl(zone: Any) -> None:
    zone.ttl = 30
    zone.put("models.test.", "A", "10.0.0.1", "10.0.0.2")
    zone.put("models.test.", "AAAA", "fd00::1")
    found = await addresses(zone)
    assert (set(found.hosts), found.ttl) == (set(hosts("10.0.0.1", "10.0.0.2")), 30)
    assert await addresses(zone, AAAA) == Addresses(hosts("fd00::1"), 30)
    assert zone.asked == {("models.test.", "A", "udp"): 1, ("models.test.", "AAAA", "udp"): 1}


async def test_cnames_are_followed_and_the_shortest_ttl_counts(zone: Any) -> None:
    zone.ttl = 60
    zone.ttls = {"models.test.": 5}
    zone.put("models.test.", "CNAME", "a.test.")
    zone.put("a.test.", "CNAME", "b.test.")
    zone.put("b.test.", "A", "10.0.0.1")
    assert await addresses(zone) == Addresses(hosts("10.0.0.1"), 5)


async def test_a_cname_loop_fails(zone: Any) -> None:
    zone.loops = ["models.test.", "a.test."]
    with pytest.raises(LookupFailed, match="CNAME"):
        await addresses(zone)


async def test_addresses_of_other_names_do_not_count(zone: Any) -> None:
    zone.put("models.test.", "TXT", "x")
    zone.unrelated = [("other.test.", "A", "10.66.66.66")]
    assert (await addresses(zone)).hosts == ()


async def test_unusable_addresses_are_left_out(zone: Any) -> None:
    zone.put("models.test.", "A", "0.0.0.0", "10.0.0.1", "224.0.0.1")
    assert (await addresses(zone)).hosts == hosts("10.0.0.1")


@pytest.mark.parametrize("exists", [True, False], ids=["no data", "NXDOMAIN"])
async def test_a_negative_answer_holds_as_long_as_the_zone_says(zone: Any, exists: bool) -> None:
    zone.negative_ttl = 12
    if exists:
        zone.put("models.test.", "TXT", "x")
    assert await addresses(zone) == Addresses((), 12)


async def test_truncated_answers_are_fetched_over_tcp(zone: Any) -> None:
    texts = [f"10.0.{i // 250}.{i % 250}" for i in range(1, 901)]
    zone.put("models.test.", "A", *texts)
    zone.truncates = True
    assert set((await addresses(zone)).hosts) == set(hosts(*texts))
    assert zone.asked == {("models.test.", "A", "udp"): 1, ("models.test.", "A", "tcp"): 1}


async def test_an_answer_that_is_truncated_over_tcp_fails(zone: Any) -> None:
    zone.put("models.test.", "A", "10.0.0.1")
    zone.truncates_over_tcp = True
    with pytest.raises(LookupFailed, match=rf"127\.0\.0\.1@{zone.port} truncated its answer over TCP"):
        await addresses(zone)


async def test_a_port_where_nothing_listens_is_no_answer(short: None) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(LookupFailed, match="no answer within"):
        await look_up_addresses(await at(port), NAME, A)


@pytest.mark.parametrize("forged", ["id", "question", "query", "junk"])
async def test_what_does_not_answer_the_question_is_ignored(zone: Any, forged: str) -> None:
    zone.put("models.test.", "A", "10.0.0.1")
    zone.forged = [forged]
    assert (await addresses(zone)).hosts == hosts("10.0.0.1")
    assert zone.asked == {("models.test.", "A", "udp"): 1}


async def test_an_answer_from_another_address_is_ignored(zone: Any) -> None:
    zone.put("models.test.", "A", "10.0.0.1")
    answers = zone.answers

    def answer_from_elsewhere(wire: bytes, over: str) -> list[bytes]:
        zone.records["models.test.", "A"] = ["10.66.66.66"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for reply in answers(wire, over):
                other.sendto(reply, ("127.0.0.1", zone.ports[-1]))
        zone.records["models.test.", "A"] = ["10.0.0.1"]
        return answers(wire, over)  # type: ignore[no-any-return]

    zone.answers = answer_from_elsewhere
    assert (await addresses(zone)).hosts == hosts("10.0.0.1")


async def test_ids_and_ports_are_random(zone: Any) -> None:
    zone.put("models.test.", "A", "10.0.0.1")
    for _ in range(20):
        await addresses(zone)
    assert len(set(zone.ids)) > 15
    assert len(set(zone.ports)) > 10


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "FORMERR", "NOTIMP"])
async def test_a_server_that_fails_is_asked_once(zone: Any, rcode: str) -> None:
    zone.rcodes["models.test.", "A"] = dns.rcode.from_text(rcode)
    with pytest.raises(LookupFailed, match=rf"127\.0\.0\.1@{zone.port} answered {rcode}"):
        await addresses(zone)
    assert zone.asked["models.test.", "A", "udp"] == 1


async def test_a_server_without_edns_is_understood(zone: Any) -> None:
    zone.put("models.test.", "A", "10.0.0.1")
    zone.knows_edns = False
    assert (await addresses(zone)).hosts == hosts("10.0.0.1")
    assert zone.asked["models.test.", "A", "udp"] == 1


async def test_a_silent_server_is_asked_again_until_the_lifetime_is_over(zone: Any, short: None) -> None:
    zone.silent.add(("models.test.", "A"))
    with pytest.raises(LookupFailed, match=rf"no answer within 0\.4 s from Do53:127\.0\.0\.1@{zone.port}"):
        await addresses(zone)
    assert zone.asked["models.test.", "A", "udp"] >= 2


async def test_the_second_server_is_asked_if_the_first_is_silent(zone: Any, short: None) -> None:
    zone.put("models.test.", "A", "10.0.0.1")
    resolver = await at(zone.port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        resolver.nameservers = [Do53Nameserver("127.0.0.1", silent.getsockname()[1]), *resolver.nameservers]
        assert (await look_up_addresses(resolver, NAME, A)).hosts == hosts("10.0.0.1")


async def test_cancelling_a_lookup_closes_its_socket(zone: Any) -> None:
    zone.silent.add(("models.test.", "A"))
    task = asyncio.ensure_future(addresses(zone))
    while not zone.ports:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)  # a transport closes its socket in the next turn of the loop
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(("0.0.0.0", zone.ports[0]))


async def test_a_name_server_by_host_name(zone: Any) -> None:
    zone.put("models.test.", "A", "10.0.0.1")
    resolver = await resolver_at(asyncio.get_running_loop(), Address("localhost", zone.port))
    resolver.nameservers = [each for each in resolver.nameservers if "127.0.0.1" in str(each)]
    assert (await look_up_addresses(resolver, NAME, A)).hosts == hosts("10.0.0.1")


async def test_a_name_server_that_cannot_be_resolved() -> None:
    with pytest.raises(LookupFailed, match=r"name server nowhere\.invalid:53 cannot be resolved"):
        await resolver_at(asyncio.get_running_loop(), Address("nowhere.invalid", 53))


async def test_targets_with_the_addresses_that_came_along(zone: Any) -> None:
    zone.ttl, zone.ttls = 30, {"a.test.": 9, "other.test.": 1}
    zone.put("models.test.", "SRV", "0 50 8500 a.test.", "0 50 8501 b.test.")
    zone.additional = [("a.test.", "A", "10.0.0.1"), ("a.test.", "AAAA", "fd00::1"), ("other.test.", "A", "10.6.6.6")]
    found = await look_up_targets(await at(zone.port), NAME)
    a, b = map(dns.name.from_text, ("a.test.", "b.test."))
    assert set(found.targets) == {(a, 8500), (b, 8501)}
    assert found.known == {a: hosts("10.0.0.1", "fd00::1")}
    assert found.ttl == 9


async def test_targets_of_the_first_priority_only(zone: Any) -> None:
    zone.put("models.test.", "SRV", "20 0 1 b.test.", "10 0 2 a.test.")
    found = await look_up_targets(await at(zone.port), NAME)
    assert found.targets == ((dns.name.from_text("a.test."), 2),)


async def test_a_dot_as_target_means_that_there_is_none(zone: Any) -> None:
    zone.put("models.test.", "SRV", "0 0 1 .")
    assert await look_up_targets(await at(zone.port), NAME) == Targets((), 0, {})


async def with_search(zone: Any, search: tuple[str, ...], ndots: int) -> Resolver:
    resolver = await at(zone.port)
    resolver.search = list(map(dns.name.from_text, search))
    resolver.ndots = ndots
    return resolver


async def test_the_search_list_of_a_pod(zone: Any) -> None:
    resolver = await with_search(zone, ("prod.svc.cluster.local", "svc.cluster.local"), 5)
    zone.put("models.svc.cluster.local.", "A", "10.0.0.1")
    assert await find_name(resolver, "models", A) == dns.name.from_text("models.svc.cluster.local.")
    assert [name for name, _, _ in zone.asked] == ["models.prod.svc.cluster.local.", "models.svc.cluster.local."]


@pytest.mark.parametrize(
    ("text", "first"), [("x.y.z", "x.y.z."), ("x.y", "x.y.a.test."), ("x.", None)], ids=["dots", "short", "absolute"]
)
async def test_names_with_enough_dots_are_tried_as_they_are_first(zone: Any, text: str, first: str | None) -> None:
    resolver = await with_search(zone, ("a.test",), 2)
    if first is None:
        assert await find_name(resolver, text, A) == dns.name.from_text(text)
        assert not zone.asked
    else:
        with pytest.raises(LookupFailed, match="no such name: "):
            await find_name(resolver, text, A)
        assert next(iter(zone.asked))[0] == first


async def test_no_name_is_tried_while_one_before_it_may_exist(zone: Any) -> None:
    resolver = await with_search(zone, ("test",), 5)
    zone.rcodes["models.test.", "A"] = dns.rcode.SERVFAIL
    zone.put("models.", "A", "10.66.66.66")
    with pytest.raises(LookupFailed, match="SERVFAIL"):
        await find_name(resolver, "models", A)
    assert ("models.", "A", "udp") not in zone.asked


async def test_a_name_that_exists_without_addresses_ends_the_search(zone: Any) -> None:
    resolver = await with_search(zone, ("test",), 5)
    zone.put("models.test.", "TXT", "x")
    zone.put("models.", "A", "10.66.66.66")
    assert await find_name(resolver, "models", A) == NAME


@pytest.mark.parametrize("text", ["a..b", "x" * 64, ".".join(["x" * 60] * 5)])
async def test_names_that_are_none(zone: Any, text: str) -> None:
    with pytest.raises(LookupFailed):
        await find_name(await at(zone.port), text, A)
    assert not zone.asked


def read(monkeypatch: pytest.MonkeyPatch, path: Path) -> Resolver:
    """`system_resolver` with this file as /etc/resolv.conf."""
    monkeypatch.setattr(dns_lookup, "Resolver", lambda: Resolver(str(path)))
    return system_resolver()


def test_the_file_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("search a.test b.test\nnameserver 10.96.0.10\nnameserver fd00::1\noptions ndots:5 timeout:0\n")
    resolver = read(monkeypatch, path)
    assert list(resolver.nameservers) == ["10.96.0.10", "fd00::1"]
    assert [str(each) for each in resolver.search] == ["a.test.", "b.test."]
    assert (resolver.ndots, resolver.timeout, resolver.lifetime, resolver.cache) == (5, 2.0, 5.0, None)


@pytest.mark.parametrize(
    "content",
    [None, b"", b"nameserver x\n", b"nameserver 10.0.0.1\nsearch \xff\n", b"nameserver 10.0.0.1\nsearch a..b\n"],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    path = tmp_path / "resolv.conf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LookupFailed, match=r"^/etc/resolv\.conf"):
        read(monkeypatch, path)


@given(st.binary(max_size=200))
def test_any_file_is_read_or_refused(content: bytes) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(dns_lookup, "Resolver", lambda: Resolver(_file(content)))
        try:
            system_resolver()
        except LookupFailed:
            pass


def _file(content: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), "utf-8")
