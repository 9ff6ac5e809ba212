"""TensorFlow Serving as a wire surface: its REST targets and its gRPC methods."""

from __future__ import annotations

from functools import partial

from meshproxy.inference.call import Verb
from meshproxy.inference.model_status import METHOD, read_json, read_response, rest_target, write_request
from meshproxy.inference.surface import StatusProbe, Surface
from meshproxy.inference.tfserving_grpc import METHODS
from meshproxy.inference.tfserving_rest import METRICS_PATH, find

MODEL_STATUS = StatusProbe(
    check="model-status",
    rest_target=rest_target,
    read_rest=read_json,
    grpc_method=METHOD,
    write_grpc=write_request,
    read_grpc=read_response,
)


def tensorflow_serving(metrics_paths: frozenset[bytes] = frozenset({METRICS_PATH})) -> Surface:
    """The surface of servers that have their metrics page at one of these paths (`--monitoring_config_file`)."""
    return Surface(
        "tensorflow-serving",
        find_rest=partial(find, metrics_paths),
        methods=METHODS,
        services={b"tensorflow.ProfilerService": Verb.PROFILE, b"tensorflow.ProfileAnalysis": Verb.PROFILE},
        packages=frozenset({b"tensorflow"}),
        probe=MODEL_STATUS,
    )


TENSORFLOW_SERVING = tensorflow_serving()
