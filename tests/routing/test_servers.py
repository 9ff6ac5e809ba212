"""Which server an application means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.fields import Metadata, WorkloadSubject
from meshproxy.config.servers import Dns, Endpoint, ModelServer, ServerSpec
from meshproxy.config.values import Address
from meshproxy.routing.servers import AUTHORITY_BYTES, MEMO_ENTRIES, UNKNOWN, Servers


def server(name: str, *endpoints: Endpoint, hosts: tuple[str, ...] = ()) -> ModelServer:
    workload = WorkloadSubject(spiffe_id="spiffe://d/a")
    if endpoints:
        return ModelServer(
            metadata=Metadata(name), spec=ServerSpec(endpoints=endpoints, hosts=hosts, workload=workload)
        )
    return ModelServer(metadata=Metadata(name), spec=ServerSpec(dns=Dns(name="a", rest=1), hosts=hosts))


SERVERS = (
    server(
        "fraud",
        Endpoint(rest="10.0.0.1:8501", grpc="10.0.0.1:8500"),
        Endpoint(sidecar=Address("fd00::1", 18500)),
        hosts=("fraud.models.svc", "10.9.9.9"),
    ),
    server("churn", Endpoint(grpc="10.0.0.1:8500"), hosts=("churn.example",)),
    server("pricing.eu"),
)


@pytest.fixture
def servers() -> Servers:
    return Servers(SERVERS)


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        (b"fraud", "fraud"),
        (b"fraud:80", "fraud"),
        (b"fraud.models.svc:8500", "fraud"),
        (b"FRAUD.Models.svc", "fraud"),
        (b"fraud.models.svc.", "fraud"),
        (b"fraud.models.svc.:1", "fraud"),
        (b"fraud:", "fraud"),
        (b"10.9.9.9:8501", "fraud"),
        (b"pricing.eu", "pricing.eu"),
        (b"churn", "churn"),
        (b"churn.example", "churn"),
        # All addresses of a gRPC target: of one server, of none, of several or of some.
        (b"10.9.9.9:8500,fraud:8500", "fraud"),
        (b"10.0.0.1:8500,10.0.0.2:8500", None),
        (b"fraud:8500,churn:8500", UNKNOWN),
        (b"10.0.0.2:8500,fraud:8500", UNKNOWN),
        # Not hosts of anybody.
        (b"", None),
        (b":80", None),
        (b"fraud.models", None),
        (b"xfraud", None),
        (b"fraud:80:80", None),
        (b"fraud:x", None),
        (b"fraud:80\n", None),
        (b"user@fraud", None),
        (b"[fraud]", None),
        (b"[::1]", None),
        (b"[::1]:80", None),
        (b"[fd00::1]:18500", None),
        (b"10.0.0.1:8501", None),
        (b"\xff\xfe", None),
    ],
)
def test_authorities(servers: Servers, authority: bytes, name: str | None) -> None:
    assert servers.find(authority, None, "") == name
    assert servers.find(authority, None, "") == name  # remembered


def test_the_header_comes_first_and_is_taken_at_its_word(servers: Servers) -> None:
    assert servers.find(b"fraud", b"churn", "10.0.0.1:8501") == "churn"
    for wrong in (b"Churn", b"churn.example", b"", b" churn", b"\xff"):
        assert servers.find(b"fraud", wrong, "10.0.0.1:8501") == UNKNOWN
    assert UNKNOWN not in {each.metadata.name for each in SERVERS}


@pytest.mark.parametrize(
    ("original", "name"),
    [
        ("10.0.0.1:8501", "fraud"),
        ("10.0.0.1:8500", "fraud"),  # the first of two
        ("[fd00::1]:18500", "fraud"),
        ("10.0.0.1:8502", None),
        ("10.0.0.1", None),
        ("", None),
    ],
)
def test_the_address_that_was_meant_comes_last(servers: Servers, original: str, name: str | None) -> None:
    assert servers.find(b"10.0.0.1:1", None, original) == name
    assert servers.find(b"churn:80", None, original) == "churn"


def test_what_applications_make_up_does_not_pile_up(servers: Servers) -> None:
    for number in range(2 * MEMO_ENTRIES + 1):
        assert servers.find(b"host-%d" % number, None, "") is None
        assert len(servers._known) <= MEMO_ENTRIES
    servers._known.clear()
    assert servers.find(b"a" * (AUTHORITY_BYTES + 1), None, "") is None
    assert servers._known == {}


@given(st.sampled_from(["fraud.models.svc", "churn"]), st.integers(0, 65_535), st.data())
def test_neither_port_nor_case_matters(host: str, port: int, data: st.DataObject) -> None:
    flips = data.draw(st.lists(st.booleans(), min_size=len(host), max_size=len(host)))
    written = "".join(char.upper() if flip else char for char, flip in zip(host, flips, strict=True))
    servers = Servers(SERVERS)
    assert servers.find(f"{written}:{port}".encode(), None, "") == servers.find(host.encode(), None, "") is not None


@given(st.binary(max_size=600))
def test_any_bytes_are_looked_at(authority: bytes) -> None:
    assert Servers(SERVERS).find(authority, None, "") in (None, "fraud", "churn", "pricing.eu")
