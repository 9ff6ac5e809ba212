from __future__ import annotations

import pytest

from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.inference.surface import Operation, Surface
from meshproxy.inference.surfaces import PATH_BYTES, REST_MEMO, SURFACES, Surfaces
from meshproxy.refusal import Reason, Refusal

PREDICTION = b"/tensorflow.serving.PredictionService/"
MODEL = b"/tensorflow.serving.ModelService/"


@pytest.mark.parametrize(
    ("path", "verb", "is_scanned"),
    [
        (PREDICTION + b"Predict", Verb.PREDICT, True),
        (PREDICTION + b"Classify", Verb.CLASSIFY, True),
        (PREDICTION + b"Regress", Verb.REGRESS, True),
        (PREDICTION + b"MultiInference", Verb.MULTI_INFERENCE, True),
        (PREDICTION + b"GetModelMetadata", Verb.METADATA, True),
        (MODEL + b"GetModelStatus", Verb.STATUS, True),
        (MODEL + b"HandleReloadConfigRequest", Verb.RELOAD, True),
        (b"/grpc.health.v1.Health/Check", Verb.STATUS, False),
        (b"/grpc.health.v1.Health/Watch", Verb.STATUS, False),
        (b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Verb.REFLECT, False),
        (b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Verb.REFLECT, False),
        (b"/tensorflow.ProfilerService/Profile", Verb.PROFILE, False),
        (b"/tensorflow.ProfilerService/Monitor", Verb.PROFILE, False),
        (b"/tensorflow.ProfileAnalysis/NewSession", Verb.PROFILE, False),
        (b"/grpc.testing.TestService/UnaryCall", Verb.UNLISTED, False),
        (b"/inference.GRPCInferenceService/ModelInfer", Verb.UNLISTED, False),
        (b"/Echo/Say", Verb.UNLISTED, False),
        (b"/_a1._B2/_c3", Verb.UNLISTED, False),
    ],
)
def test_knows_what_a_method_asks(path: bytes, verb: Verb, is_scanned: bool) -> None:
    found = SURFACES.find_grpc(path)
    assert (found.target, found.verb) == (path, verb)
    assert found.call == (None if is_scanned else Call(verb))
    assert (found.scan is not None) == is_scanned
    assert found.is_health == (b"Health" in path)
    assert SURFACES.find_grpc(path) is found


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"//",
        b"*",
        b"/Predict",
        b"tensorflow.serving.PredictionService/Predict",  # CVE-2026-33186: without the slash
        b"//tensorflow.serving.PredictionService/Predict",
        b"/tensorflow.serving.PredictionService//Predict",
        b"/tensorflow.serving.PredictionService/Predict/",
        b"/tensorflow.serving.PredictionService/Predict?x=y",
        b"/tensorflow.serving.PredictionService/Predict#x",
        b"/tensorflow.serving.PredictionService/Predict;x",
        b"/tensorflow.serving.PredictionService/%50redict",
        b"/tensorflow.serving.PredictionService/Predict\0",
        b"/tensorflow.serving.PredictionService/Predict\n",
        b" /tensorflow.serving.PredictionService/Predict",
        b"/./tensorflow.serving.PredictionService/Predict",
        b"/x/../tensorflow.serving.PredictionService/Predict",
        b"/tensorflow.serving.PredictionService/PREDICT",
        b"/tensorflow.serving.PredictionService/PredictStreamed",
        b"/tensorflow.serving.SessionService/SessionRun",
        b"/tensorflow.serving.ModelService/ListModelNames",
        b"/tensorflow.serving.ModelService/GetModelMetrics",
        b"/TensorFlow.Serving.PredictionService/Predict",
        b"/TENSORFLOW.ProfilerService/Profile",
        b"/tensorflow.profilerservice/Profile",
        b"/tensorflow.EventListener/SendEvents",
        b"/tensorflow.WorkerService/RunGraph",
        b"/tensorflow/Predict",
        b"/grpc.testing.TestService/",
        b"/grpc..testing/Unary",
        b"/.grpc.testing/Unary",
        b"/grpc.testing./Unary",
        b"/grpc.testing.1Service/Unary",
        b"/grpc.testing.TestService/1Unary",
        b"/grpc.testing.TestService/Unary.Call",
        b"/grpc.testing.TestService/Unary-Call",
        "/grpc.tésting.TestService/UnaryCall".encode(),
        b"/a.B/" + b"c" * PATH_BYTES,
    ],
)
def test_any_other_path_is_never_called(path: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        SURFACES.find_grpc(path)
    assert (refused.value.reason, refused.value.rule) == (Reason.PERMISSION_DENIED, "unknown-method")


# REST


def test_a_target_that_no_surface_has_is_not_found() -> None:
    with pytest.raises(Refusal) as refused:
        SURFACES.find_rest(b"GET", b"/v2/models/<m>?x=y")
    assert (refused.value.reason, refused.value.http_status) == (Reason.BAD_REQUEST, 404)
    assert refused.value.message == "Not found: GET /v2/models/\\x3cm\\x3e?"


def test_a_target_that_a_surface_has_but_cannot_read_is_its_refusal() -> None:
    with pytest.raises(Refusal) as refused:
        SURFACES.find_rest(b"POST", b"/v1/models/m:explain")
    assert (refused.value.reason, refused.value.http_status) == (Reason.BAD_REQUEST, 400)


def test_request_lines_are_remembered_but_not_without_end() -> None:
    for i in range(REST_MEMO + 100):
        SURFACES.find_rest(b"GET", b"/v1/models/m%d" % i)
    assert SURFACES.find_rest.cache_info().currsize == REST_MEMO  # type: ignore[attr-defined]
    assert SURFACES.find_rest(b"GET", b"/v1/models/m") is SURFACES.find_rest(b"GET", b"/v1/models/m")


# The order


def only(name: str, rest: bytes = b"", methods: tuple[bytes, ...] = (), packages: tuple[bytes, ...] = ()) -> Surface:
    call = Call(Verb.STATUS, (ModelRef(name),))

    def find_rest(method: bytes, target: bytes) -> Operation | None:
        return Operation(Verb.STATUS, target, call) if rest and target.startswith(rest) else None

    return Surface(
        name,
        find_rest,
        methods={path: Operation(Verb.STATUS, path, call) for path in methods},
        packages=frozenset(packages),
    )


def named(operation: Operation) -> str:
    assert operation.call is not None
    return operation.call.models[0].name


def test_the_first_surface_that_owns_a_target_answers() -> None:
    surfaces = Surfaces((only("a", b"/a/"), only("b", b"/")))
    assert named(surfaces.find_rest(b"GET", b"/a/x")) == "a"
    assert named(surfaces.find_rest(b"GET", b"/b/x")) == "b"


def test_a_method_belongs_to_one_surface() -> None:
    surfaces = Surfaces((only("a", methods=(b"/a.A/Do",)), only("b", methods=(b"/b.B/Do",))))
    assert named(surfaces.find_grpc(b"/b.B/Do")) == "b"
    with pytest.raises(ValueError, match="b and another"):
        Surfaces((only("a", methods=(b"/a.A/Do",)), only("b", methods=(b"/a.A/Do",))))


@pytest.mark.parametrize("path", [b"/mine.A/Other", b"/Mine.A/Do", b"/mine.deeper.A/Do"])
def test_a_package_belongs_to_one_surface(path: bytes) -> None:
    surfaces = Surfaces((only("a"), only("b", methods=(b"/mine.A/Do",), packages=(b"mine",))))
    assert named(surfaces.find_grpc(b"/mine.A/Do")) == "b"
    with pytest.raises(Refusal):
        surfaces.find_grpc(path)
    assert Surfaces((only("a"),)).find_grpc(path).verb is Verb.UNLISTED


def test_a_health_check_finds_its_probe() -> None:
    probe = SURFACES.probe("model-status")
    assert probe is not None
    assert probe.rest_target("m") == b"/v1/models/m"
    assert SURFACES.find_grpc(probe.grpc_method).verb is Verb.STATUS
    assert probe.read_rest(b'{"model_version_status": [{"version": "2", "state": "AVAILABLE"}]}').available == ("2",)
    assert SURFACES.probe("grpc") is None
