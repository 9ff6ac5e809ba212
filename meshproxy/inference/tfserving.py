"""TensorFlow Serving as a wire surface: its REST targets and its gRPC methods."""

from __future__ import annotations

from meshproxy.inference.call import Verb
from meshproxy.inference.model_status import METHOD, read_json, read_response, rest_target, write_request
from meshproxy.inference.surface import StatusProbe, Surface
from meshproxy.inference.tfserving_grpc import METHODS
from meshproxy.inference.tfserving_rest import find

MODEL_STATUS = StatusProbe(
    check="model-status",
    rest_target=rest_target,
    read_rest=read_json,
    grpc_method=METHOD,
    write_grpc=write_request,
    read_grpc=read_response,
)

TENSORFLOW_SERVING = Surface(
    "tensorflow-serving",
    find_rest=find,
    methods=METHODS,
    services={b"tensorflow.ProfilerService": Verb.PROFILE, b"tensorflow.ProfileAnalysis": Verb.PROFILE},
    packages=frozenset({b"tensorflow"}),
    probe=MODEL_STATUS,
)
