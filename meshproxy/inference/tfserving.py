"""TensorFlow Serving as a wire surface: its REST targets and its gRPC methods."""

from __future__ import annotations

from meshproxy.inference.call import Verb
from meshproxy.inference.surface import Surface
from meshproxy.inference.tfserving_grpc import METHODS
from meshproxy.inference.tfserving_rest import find

TENSORFLOW_SERVING = Surface(
    "tensorflow-serving",
    find_rest=find,
    methods=METHODS,
    services={b"tensorflow.ProfilerService": Verb.PROFILE, b"tensorflow.ProfileAnalysis": Verb.PROFILE},
    packages=frozenset({b"tensorflow"}),
)
