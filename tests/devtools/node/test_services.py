from __future__ import annotations

from typing import Any

from meshproxy.devtools.node.services import ServicePort, rules, service_ports


def service(name: str = "web", address: str = "10.0.0.9", **port: Any) -> Any:
    ports = [{"name": "http", "port": 80, "protocol": "TCP", **port}]
    return {"metadata": {"name": name, "namespace": "serving"}, "spec": {"clusterIP": address, "ports": ports}}


def slices(*endpoints: Any, name: str = "web", port: str = "http") -> Any:
    labels = {"kubernetes.io/service-name": name}
    return {
        "metadata": {"namespace": "serving", "labels": labels},
        "ports": [{"name": port, "port": 8080}],
        "endpoints": list(endpoints) or None,
    }


def endpoint(address: str, **conditions: bool) -> Any:
    return {"addresses": [address], "conditions": conditions}


def test_ready_endpoints_of_all_slices() -> None:
    found = [
        slices(endpoint("10.78.1.2", ready=True), endpoint("10.78.1.3", ready=False)),
        slices(endpoint("10.78.1.1"), endpoint("10.78.1.2", ready=True)),
        slices(endpoint("10.78.1.4"), name="another"),
        slices(endpoint("10.78.1.5"), port="grpc"),
    ]
    endpoints = (("10.78.1.1", 8080), ("10.78.1.2", 8080))
    assert service_ports([service()], found) == [ServicePort("10.0.0.9", 80, endpoints)]


def test_services_without_an_address_or_an_endpoint() -> None:
    assert service_ports([service(address="None")], [slices(endpoint("10.78.1.1"))]) == []
    assert service_ports([service(protocol="UDP")], []) == []
    assert service_ports([service()], [slices()]) == [ServicePort("10.0.0.9", 80, ())]


def test_rules() -> None:
    ports = [ServicePort("10.0.0.9", 80, (("10.78.1.1", 81), ("10.78.1.2", 82))), ServicePort("10.0.0.8", 80, ())]
    text = rules(ports, "10.0.0.0/24")
    to = "numgen random mod 2 map { 0 : 10.78.1.1 . 81, 1 : 10.78.1.2 . 82 }"
    assert f"ip daddr 10.0.0.9 tcp dport 80 dnat ip to {to}" in text
    assert "10.0.0.8" not in text, "it is refused, as all addresses of Services that lead nowhere"
    assert text.count("ip daddr 10.0.0.0/24 meta l4proto tcp reject with tcp reset") == 2
