from __future__ import annotations

import asyncio

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from meshproxy.devtools.node.names import NameServer, answer, resolv_conf, service_names

CONTROL = "control.mesh.svc.cluster.local."


def test_services_that_have_an_address() -> None:
    services = [
        {"metadata": {"name": name, "namespace": "mesh"}, "spec": spec}
        for name, spec in (("control", {"clusterIP": "10.0.0.9"}), ("none", {"clusterIP": "None"}), ("out", {}))
    ]
    assert service_names(services) == {CONTROL: "10.0.0.9"}


def test_a_pod_finds_short_names() -> None:
    lines = resolv_conf("serving", "10.78.0.1").splitlines()
    assert lines[:2] == ["nameserver 10.78.0.1", "search serving.svc.cluster.local svc.cluster.local cluster.local"]


@pytest.mark.parametrize("wire", [b"", b"nonsense"])
def test_what_is_no_query_has_no_answer(wire: bytes) -> None:
    assert answer(wire, {}) is None


async def test_answers() -> None:
    server = NameServer()
    server.names = {CONTROL: "10.0.0.9"}
    port = await server.listen("127.0.0.1", 0)

    async def ask(name: str, kind: str = "A") -> tuple[str, list[str]]:
        query = dns.message.make_query(name, kind)
        response = await asyncio.wait_for(dns.asyncquery.udp(query, "127.0.0.1", port=port), 60)
        return dns.rcode.to_text(response.rcode()), [item.to_text() for each in response.answer for item in each]

    try:
        assert await ask(CONTROL.upper()) == ("NOERROR", ["10.0.0.9"])
        assert await ask(CONTROL, "AAAA") == ("NOERROR", [])
        assert await ask("other.mesh.svc.cluster.local.") == ("NXDOMAIN", [])
    finally:
        server.close()
