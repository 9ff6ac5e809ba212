"""What is suspicious about `telemetry.modelServer`."""

from __future__ import annotations

import pytest

from tests.config.conftest import Check, codes, document, mesh, said, server, sidecar

READS = ", telemetry: {modelServer: {}}"
RELAYS = ", telemetry: {modelServer: {relay: true}}"
ROLE = document("ModelRole", "scrape", "{rules: [{models: ['*'], verbs: [metrics]}]}")


def binding(subject: str, action: str = "allow", role: str = "scrape") -> str:
    return document("ModelRoleBinding", "scraper", f"{{role: {role}, action: {action}, subjects: [{subject}]}}")


ADDRESS = binding("{ipBlocks: [10.8.0.0/16]}")


def test_nothing_is_wrong_with_a_page_that_can_be_read_and_relayed(check: Check) -> None:
    assert codes(check(mesh(READS), sidecar(), server())) == []
    assert codes(check(mesh(RELAYS), sidecar(), server(), ROLE, ADDRESS)) == []
    assert codes(check(mesh(), sidecar(), server())) == []


def test_no_port_for_rest(check: Check) -> None:
    grpc = document("ModelServer", "local", '{endpoints: [{grpc: "127.0.0.1:8500"}]}')
    (found,) = said(check(mesh(READS), sidecar(), grpc), "MP0607")
    assert found.endswith('the ModelServer local has no "rest", the port where the page is')
    found_by_name = document("ModelServer", "local", "{dns: {name: serving, srv: rest}}")
    assert codes(check(mesh(READS), sidecar(), found_by_name)) == []


def test_several_endpoints(check: Check) -> None:
    two = document("ModelServer", "local", '{endpoints: [{rest: "127.0.0.1:8501"}, {rest: "127.0.0.1:8601"}]}')
    (found,) = said(check(mesh(RELAYS), sidecar(), two, ROLE, ADDRESS), "MP0607")
    assert "has several endpoints" in found
    assert codes(check(mesh(READS), sidecar(), two)) == []


@pytest.mark.parametrize(
    "documents",
    [
        (),
        (ROLE, binding("{workload: {namespace: a, serviceAccount: b}}")),
        (ROLE, binding("{ipBlocks: [10.8.0.0/16], workload: {namespace: a}}")),
        (ROLE, binding("{ipBlocks: [10.8.0.0/16], headers: {x-scraper: a}}")),
        (ROLE, binding("{ipBlocks: [10.8.0.0/16]}", action="audit")),
        (document("ModelRole", "scrape", "{rules: [{models: [m], verbs: [metrics]}]}"), ADDRESS),
        (document("ModelRole", "scrape", "{rules: [{models: ['*'], verbs: [predict]}]}"), ADDRESS),
    ],
)
def test_nobody_may_read_what_is_relayed(check: Check, documents: tuple[str, ...]) -> None:
    found = said(check(mesh(RELAYS), sidecar(), server(), *documents), "MP0607")
    assert [each.rpartition(": ")[2] for each in found] == ["nobody gets the page"]


def test_a_part_of_a_set_says_nothing(check: Check) -> None:
    assert codes(check(mesh(RELAYS), sidecar(), is_partial=True)) == []


def test_neither_does_a_sidecar_without_an_inbound_port(check: Check) -> None:
    outbound = document("Sidecar", "s", '{identity: {workloadApi: {socket: "unix:/a"}}, outbound: {}}')
    assert codes(check(mesh(RELAYS), outbound, server())) == []
