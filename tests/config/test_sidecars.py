"""What one sidecar says of itself."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from meshproxy.config import sidecars


def spec_of(**given: Any) -> sidecars.SidecarSpec:
    """A sidecar's spec with `outbound` and whatever else."""
    return msgspec.convert({"outbound": {}, **given}, sidecars.SidecarSpec)


def test_workers_have_admin_ports_of_their_own() -> None:
    anywhere = {"host": "127.0.0.1", "port": 0}
    assert spec_of().worker_ports == ()
    assert spec_of(workers=3).worker_ports == (18503, 18504, 18505)
    assert spec_of(workers=2, admin={"firstWorkerPort": 9000}).worker_ports == (9000, 9001)
    assert spec_of(workers=2, admin={"listen": anywhere}).worker_ports == (0, 0)
    assert spec_of(workers=7).worker_ports[-1] == 18509


def test_the_trail_has_a_file_of_its_own() -> None:
    for both in ("stdout", "off", "/dev/null"):
        assert spec_of(accessLog=both, auditLog=both).audit_log == both
    assert spec_of(accessLog="./a.log", auditLog="./b.log").audit_log == "./b.log"
    with pytest.raises(msgspec.ValidationError, match="are one file"):
        spec_of(accessLog="./a.log", auditLog="./a.log")


def test_a_sidecar_joins_in_one_way() -> None:
    address = {"host": "a", "port": 1}
    control = {"address": address, "spiffeId": "spiffe://d/c", "trustBundle": "b", "folder": "f"}
    for way in ("serviceAccountToken", "joinToken"):
        assert spec_of(controlPlane={**control, way: "t"}).control_plane is not None
    with pytest.raises(msgspec.ValidationError, match="both say how to join: keep one"):
        spec_of(controlPlane={**control, "serviceAccountToken": "t", "joinToken": "j"})


def test_an_identity_of_another_issuer_leaves_the_documents_to_the_control_plane() -> None:
    files = {"certificate": "a", "key": "a", "trustBundle": "b"}
    control = {"address": {"host": "a", "port": 1}, "spiffeId": "spiffe://d/c", "trustBundle": "b", "folder": "f"}
    spec = spec_of(identity={"files": files}, controlPlane={**control, "documents": True})
    assert spec.own_identity == spec.identity
    issued = spec_of(controlPlane={**control, "documents": True}).own_identity
    assert issued is not None
    assert issued.files is not None
    assert issued.files.certificate == "f/identity.pem"
    with pytest.raises(msgspec.ValidationError, match="keep one, or set"):
        spec_of(identity={"files": files}, controlPlane=control)
    with pytest.raises(msgspec.ValidationError, match="no certificate is asked for"):
        spec_of(identity={"files": files}, controlPlane={**control, "documents": True, "joinToken": "t"})


@pytest.mark.parametrize(
    ("given", "worker", "reason"),
    [
        ({"workers": 8}, 7, "port 18510 is used by the control plane"),
        ({"workers": 2, "admin": {"firstWorkerPort": 18511}}, 0, "port 18511 is used by the control plane"),
        ({"workers": 2, "admin": {"firstWorkerPort": 18500}}, 1, "port 18501 is outbound.listen"),
        ({"workers": 2, "admin": {"firstWorkerPort": 18502}}, 0, "port 18502 is admin.listen"),
        (
            {"workers": 2, "inbound": {"server": "a", "listen": {"host": "::", "port": 18504}}},
            1,
            "port 18504 is inbound.listen",
        ),
        ({"workers": 3, "admin": {"firstWorkerPort": 65_534}}, 2, "65536 is not a port"),
    ],
)
def test_a_worker_port_that_is_taken_is_refused(given: dict[str, Any], worker: int, reason: str) -> None:
    message = f"no admin port for worker {worker}: {reason}; set admin.firstWorkerPort"
    with pytest.raises(msgspec.ValidationError, match=re.escape(message)):
        spec_of(**given)
