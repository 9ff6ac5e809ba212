"""gRPC's own services beside those of a model server: health and reflection.

Sources: https://github.com/grpc/grpc-proto, grpc/health/v1/health.proto and grpc/reflection/*/reflection.proto.
"""

from __future__ import annotations

from meshproxy.inference.call import Call, Verb
from meshproxy.inference.grpc_health import CHECK, WATCH
from meshproxy.inference.surface import Operation, Surface

_REFLECTION = (
    b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
_STATUS = Call(Verb.STATUS)
_REFLECT = Call(Verb.REFLECT)

GRPC_SERVICES = Surface(
    "grpc",
    methods={
        **{path: Operation(Verb.STATUS, path, _STATUS, is_health=True) for path in (CHECK, WATCH)},
        **{path: Operation(Verb.REFLECT, path, _REFLECT) for path in _REFLECTION},
    },
)
