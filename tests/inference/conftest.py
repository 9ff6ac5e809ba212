"""The oracle: protobuf itself, over definitions with the field numbers of tensorflow_serving/apis.

What our scan does not look into is `bytes` here, so that both look at the same.
"""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

DEFINITIONS = """
ModelSpec: name 1 string, version 2 Int64Value in choice, version_label 4 string in choice, signature_name 3 string
SpecRequest: model_spec 1 ModelSpec, inputs 2 bytes*
InferenceTask: model_spec 1 ModelSpec, method_name 2 bytes
TasksRequest: tasks 1 InferenceTask*, input 2 bytes
ModelConfig: name 1 string, base_path 2 bytes
ModelConfigList: config 1 ModelConfig*
ModelServerConfig: model_config_list 1 ModelConfigList in config, custom_model_config 2 Any in config
Any: type_url 1 bytes, value 2 bytes
ClientRequest: client_id 6 bytes
ConfigRequest: config 1 ModelServerConfig, metric_names 2 bytes*
"""


@pytest.fixture(scope="session")
def messages() -> dict[str, Any]:
    """Message classes by name."""
    file = descriptor_pb2.FileDescriptorProto(
        name="oracle.proto", package="oracle", syntax="proto3", dependency=["google/protobuf/wrappers.proto"]
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    for line in DEFINITIONS.strip().splitlines():
        name, _, fields = line.partition(": ")
        message = file.message_type.add(name=name)
        for definition in fields.split(", "):
            field_name, number, kind, *oneof = definition.split(" ")
            field = message.field.add(name=field_name, number=int(number))
            field.label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            kind = kind.rstrip("*")
            if kind in ("string", "bytes"):
                field.type = kinds.TYPE_STRING if kind == "string" else kinds.TYPE_BYTES
            else:
                field.type = kinds.TYPE_MESSAGE
                field.type_name = ".google.protobuf.Int64Value" if kind == "Int64Value" else f".oracle.{kind}"
            if oneof:
                if not message.oneof_decl:
                    message.oneof_decl.add(name=oneof[1])
                field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"oracle.{message.name}"))
        for message in file.message_type
    }
