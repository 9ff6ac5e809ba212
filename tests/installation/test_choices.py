from __future__ import annotations

from typing import Any

import pytest

from meshproxy.installation.choices import CertManager, Choices, Injection
from tests.injection.pods import SETTINGS


def choices(**changed: Any) -> Choices:
    return Choices(**{"image": "registry.example.com/meshproxy:1", "trust_domain": "prod.example", **changed})


def test_where_the_control_plane_is() -> None:
    made = choices(namespace="mesh", service_account="planes")
    assert made.address == "meshproxy-control.mesh.svc:18510"
    assert made.identity == "spiffe://prod.example/ns/mesh/sa/planes"
    elsewhere = choices(control_plane="10.0.0.1:1", control_plane_id="spiffe://prod.example/control")
    assert (elsewhere.address, elsewhere.identity) == ("10.0.0.1:1", "spiffe://prod.example/control")


def test_a_policy_adds_sidecars_with_these_choices() -> None:
    made = choices(injection=Injection.POLICY, trust_bundle=SETTINGS.trust_bundle, server="s", listen="0.0.0.0")
    sidecars = made.sidecars()
    assert (sidecars.image, sidecars.control_plane) == (made.image, made.address)
    assert (sidecars.server, sidecars.listen, sidecars.control_plane_id) == ("s", "0.0.0.0", made.identity)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": "a b"}, "expected an image"),
        ({"trust_domain": "A"}, "expected a trust domain"),
        ({"namespace": "a/b"}, "expected a name"),
        ({"service_account": ""}, "expected a name"),
        ({"memory_limit": "a lot"}, "expected an amount"),
        ({"memory_limit": "63Mi"}, "below what is requested, 64Mi"),
        ({"control_plane": "here"}, 'expected "HOST:PORT"'),
        ({"control_plane_id": "spiffe://other.example/a"}, "is not in the trust domain prod.example"),
        ({"injection": Injection.POLICY}, "holds the trust bundle"),
        ({"injection": Injection.POLICY, "trust_bundle": ""}, "expected certificates"),
        (
            {"injection": Injection.POLICY, "trust_bundle": SETTINGS.trust_bundle, "kubernetes": (1, 28)},
            "native sidecars",
        ),
        ({"injection": Injection.NONE, "cert_manager": CertManager("Issuer", "ca")}, "without the webhook"),
    ],
)
def test_what_cannot_be_used(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choices(**changed)
