from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import dns.name
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.upstream import resolver
from meshproxy.upstream.dns_answers import A, LookupFailed, read_answer
from meshproxy.upstream.resolver import NameServer, ask, read_resolv_conf

NAME = dns.name.from_text("models.test.")


def test_the_file_of_a_pod() -> None:
    text = "search prod.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"
    server = read_resolv_conf(text)
    assert server == NameServer(
        "10.96.0.10", 53, ("prod.svc.cluster.local", "svc.cluster.local", "cluster.local"), ndots=5
    )
    assert server.candidates("models") == (
        "models.prod.svc.cluster.local.",
        "models.svc.cluster.local.",
        "models.cluster.local.",
        "models.",
    )
    assert server.candidates("models.") == ("models.",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", NameServer("127.0.0.1")),
        ("# nameserver 10.0.0.1\n; nameserver 10.0.0.2\nnameserver\n", NameServer("127.0.0.1")),
        ("nameserver 10.0.0.1\nnameserver 10.0.0.2", NameServer("10.0.0.1")),
        ("nameserver fd00::1", NameServer("fd00::1")),
        ("domain a.test\nsearch B.test. c.test", NameServer("127.0.0.1", search=("b.test", "c.test"))),
        ("search a.test\nsearch b.test", NameServer("127.0.0.1", search=("b.test",))),
        ("options rotate ndots:2 timeout:1", NameServer("127.0.0.1", ndots=2)),
        ("options ndots:99", NameServer("127.0.0.1", ndots=15)),
        ("options ndots:x ndots: ndots", NameServer("127.0.0.1")),
    ],
)
def test_resolv_conf(text: str, expected: NameServer) -> None:
    assert read_resolv_conf(text) == expected


def test_names_with_enough_dots_are_tried_as_they_stand_first() -> None:
    server = NameServer("10.0.0.1", search=("a.test", "."[1:]), ndots=2)
    assert server.candidates("x.y.z") == ("x.y.z.", "x.y.z.a.test.")
    assert server.candidates("x.y") == ("x.y.a.test.", "x.y.")


@given(st.text(max_size=200))
def test_any_file_is_read(text: str) -> None:
    assert 0 <= read_resolv_conf(text).ndots <= 15


def test_the_file_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "RESOLV_CONF", tmp_path / "resolv.conf")
    assert resolver.read_system() == NameServer("127.0.0.1")
    (tmp_path / "resolv.conf").write_bytes(b"nameserver 10.0.0.1\nsearch \xff\n")
    assert resolver.read_system().host == "10.0.0.1"


async def asked(zone: Any, seconds: float = 5.0) -> list[str]:
    server = NameServer("127.0.0.1", zone.port)
    message = await ask(asyncio.get_running_loop(), server, NAME, A, seconds)
    return sorted(str(host) for host in read_answer(message).hosts)


async def test_an_answer_over_udp(zone: Any) -> None:
    zone.put("models.test.", "A", "10.0.0.1", "10.0.0.2")
    assert await asked(zone) == ["10.0.0.1", "10.0.0.2"]
    assert zone.asked == {("models.test.", "A", "udp"): 1}


async def test_what_does_not_fit_is_asked_for_over_tcp(zone: Any) -> None:
    hosts = [f"10.0.{i // 250}.{i % 250}" for i in range(1, 901)]
    zone.put("models.test.", "A", *hosts)
    zone.truncates = True
    assert await asked(zone) == sorted(hosts)
    assert zone.asked == {("models.test.", "A", "udp"): 1, ("models.test.", "A", "tcp"): 1}


async def test_truncated_over_tcp_is_no_answer(zone: Any) -> None:
    zone.put("models.test.", "A", "10.0.0.1")
    zone.says_more_over_tcp = False
    with pytest.raises(LookupFailed, match="something else over TCP"):
        await asked(zone)


@pytest.mark.parametrize("forged", ["id", "question", "query", "junk"])
async def test_what_is_no_answer_to_the_question_is_ignored(zone: Any, forged: str) -> None:
    zone.put("models.test.", "A", "10.0.0.1")
    zone.forged = [forged]
    assert await asked(zone) == ["10.0.0.1"]
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
    assert await asked(zone) == ["10.0.0.1"]


async def test_ids_and_ports_are_drawn_anew(zone: Any) -> None:
    zone.put("models.test.", "A", "10.0.0.1")
    for _ in range(20):
        await asked(zone)
    assert len(set(zone.ids)) > 15
    assert len(set(zone.ports)) > 10


async def test_a_server_without_edns_is_asked_without(zone: Any) -> None:
    zone.put("models.test.", "A", "10.0.0.1")
    zone.knows_edns = False
    assert await asked(zone) == ["10.0.0.1"]
    assert zone.asked["models.test.", "A", "udp"] == 2


async def test_a_server_that_understands_nothing(zone: Any) -> None:
    zone.rcodes["models.test.", "A"] = dns.rcode.FORMERR
    with pytest.raises(LookupFailed, match="FORMERR"):
        await asked(zone)


async def test_a_server_that_fails_is_not_asked_twice(zone: Any) -> None:
    zone.rcodes["models.test.", "A"] = dns.rcode.SERVFAIL
    with pytest.raises(LookupFailed, match="SERVFAIL"):
        await asked(zone)
    assert zone.asked["models.test.", "A", "udp"] == 1


async def test_a_server_that_is_silent_is_asked_twice(zone: Any) -> None:
    zone.silent.add(("models.test.", "A"))
    with pytest.raises(LookupFailed, match=r"did not answer within 0\.05 s"):
        await asked(zone, 0.05)
    assert zone.asked["models.test.", "A", "udp"] == 2


async def test_a_server_that_is_not_there() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(LookupFailed, match=f"name server 127.0.0.1:{port} cannot be reached: Connection refused"):
        await ask(asyncio.get_running_loop(), NameServer("127.0.0.1", port), NAME, A, 5.0)


def test_addresses_of_servers_read_well() -> None:
    assert str(NameServer("fd00::1")) == "[fd00::1]:53"
