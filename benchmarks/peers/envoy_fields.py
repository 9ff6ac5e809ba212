"""Envoy once more, reading the model of a gRPC call out of its message with the filter `grpc_field_extraction`."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2

from benchmarks.peers.envoy import (
    PREDICTION_SERVICE,
    TYPES,
    Envoy,
    configuration,
    jwt,
    metadata,
    path_prefix,
    principals,
    rbac,
    rest_policies,
)
from meshproxy.devtools.messages import METHODS

if TYPE_CHECKING:
    from benchmarks.peers.peer import Setting

FILTER = "envoy.filters.http.grpc_field_extraction"
MODEL_FIELD = "model_spec.name"
METHODS_WITH_A_MODEL = ("Predict", "Classify", "Regress")


class EnvoyFields(Envoy):
    sees_grpc_model = True

    def __init__(self, name: str, buffer_bytes: int | None = None) -> None:
        """`buffer_bytes`: how much of a body it may hold. The filter holds a message whole, and Envoy refuses what is
        larger: by default, with HTTP/2, what is larger than the window of a stream, 16 MiB."""
        self.name = name
        self.buffer_bytes = buffer_bytes
        held = f" of at most {buffer_bytes // 2**20} MiB" if buffer_bytes else ""
        self.checks = f"as envoy, and of gRPC the model in the first message{held} (grpc_field_extraction)"

    def configuration(self, setting: Setting, port: int) -> dict[str, Any]:
        policies = rest_policies(setting) | grpc_policies(setting)
        filters = [jwt(setting), extraction(), rbac(policies)]
        return configuration(setting, port, filters, self.buffer_bytes)


ENVOY_FIELDS = EnvoyFields("envoy-fields")
ENVOY_FIELDS_64M = EnvoyFields("envoy-fields-64m", 64 * 2**20)


def extraction() -> dict[str, Any]:
    """The filter: for each method the field whose value becomes metadata. It needs the messages' descriptors."""
    extracted: dict[str, Any] = {"request_field_extractions": {MODEL_FIELD: {}}}
    typed = {
        "@type": f"{TYPES}.filters.http.grpc_field_extraction.v3.GrpcFieldExtractionConfig",
        "descriptor_set": {"inline_bytes": base64.b64encode(descriptor_set()).decode()},
        "extractions_by_method": {f"{PREDICTION_SERVICE[1:-1]}.{name}": extracted for name in METHODS_WITH_A_MODEL},
    }
    return {"name": FILTER, "typed_config": typed}


def descriptor_set() -> bytes:
    """What `protoc --include_imports --descriptor_set_out` writes of PredictionService: a FileDescriptorSet."""
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    service = descriptor_pb2.ServiceDescriptorProto(name="PredictionService")
    for path, (request, response) in METHODS.items():
        if path.startswith(PREDICTION_SERVICE):
            types = {"input_type": request, "output_type": response}
            names = {kind: f".{message.DESCRIPTOR.full_name}" for kind, message in types.items()}
            service.method.add(name=path.removeprefix(PREDICTION_SERVICE), **names)
            _add_file(files, request.DESCRIPTOR.file)
    files[METHODS[PREDICTION_SERVICE + "Predict"][0].DESCRIPTOR.file.name].service.append(service)
    return descriptor_pb2.FileDescriptorSet(file=files.values()).SerializeToString()


def _add_file(files: dict[str, descriptor_pb2.FileDescriptorProto], file: Any) -> None:
    """A file after those that it imports."""
    for imported in file.dependencies:
        _add_file(files, imported)
    if file.name not in files:
        file.CopyToProto(files.setdefault(file.name, descriptor_pb2.FileDescriptorProto()))


def grpc_policies(setting: Setting) -> dict[str, Any]:
    """A policy for each rule, on the model that was extracted."""
    allowed = principals(setting)
    service = path_prefix(PREDICTION_SERVICE)
    return {
        f"grpc-rule-{number:05d}": {
            "permissions": [
                {
                    "and_rules": {
                        "rules": [service, metadata(FILTER, MODEL_FIELD, one_of=setting.rules.model_of(number))]
                    }
                }
            ],
            "principals": allowed,
        }
        for number in range(setting.rules.count)
    }
