from __future__ import annotations

from meshproxy.inference.call import Call, Verb
from meshproxy.inference.grpc_health import CHECK, WATCH
from meshproxy.inference.grpc_services import GRPC_SERVICES
from meshproxy.inference.surfaces import SURFACES

REFLECTION = {
    b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
}


def test_every_method_of_health_and_reflection_has_its_verb() -> None:
    verbs = {path: operation.verb for path, operation in GRPC_SERVICES.methods.items()}
    assert verbs == {CHECK: Verb.STATUS, WATCH: Verb.STATUS} | dict.fromkeys(REFLECTION, Verb.REFLECT)


def test_only_health_may_be_answered_by_the_sidecar() -> None:
    assert {path for path, operation in GRPC_SERVICES.methods.items() if operation.is_health} == {CHECK, WATCH}


def test_they_name_no_model_and_no_body_is_scanned_or_rewritten() -> None:
    """Both are streams or ask about the whole server: access is decided from the method alone."""
    for path, operation in GRPC_SERVICES.methods.items():
        assert operation.call == Call(operation.verb)
        assert operation.target == path
        assert operation.scan is None
        assert not operation.can_rewrite


def test_the_sidecar_knows_them_and_their_neighbours_are_unlisted() -> None:
    for path, operation in GRPC_SERVICES.methods.items():
        assert SURFACES.find_grpc(path) is operation
        assert SURFACES.find_grpc(path + b"2").verb is Verb.UNLISTED


def test_there_is_no_rest() -> None:
    for method, target in ((b"GET", b"/"), (b"GET", CHECK), (b"POST", CHECK)):
        assert GRPC_SERVICES.find_rest(method, target) is None
