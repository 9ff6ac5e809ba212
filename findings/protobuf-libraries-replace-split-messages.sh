#!/usr/bin/env bash
# An embedded message that comes in two parts is merged by protobuf, and replaced by its last part in three libraries.
#
# Expected: "parsers merge multiple instances of the same embedded message field" (protobuf's encoding guide, "Last One
#   Wins"); serializers may write a message in parts, and joining two serialized messages merges them.
# Happens: the field of a request comes twice, first with a name, then with a signature:
#   - protobuf (upb): both are set.
#   - betterproto, betterproto2 and pure-protobuf: only the signature is set, the name is lost without an error.
# Since: betterproto 1.2.5, betterproto2 0.10.0, pure-protobuf 3.1.5; protobuf 7.36.2.
# Matters: TensorFlow Serving's ModelSpec is such a field. Test servers, recorders and gateways on these libraries show
#   another model, or none, than the model server that gets the same bytes.
# Source: betterproto/__init__.py, Message.parse, and betterproto2/__init__.py: each value is set, lists aside;
#   pure_protobuf/_accumulators.py, AccumulateMessages: what the later part leaves out counts as its default.
set -euo pipefail
version=${1:-0.10.0}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "betterproto2==$version" betterproto==1.2.5 \
    pure-protobuf==3.1.5 protobuf==7.36.2 || { echo "cannot install the packages" >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" -W ignore - <<'PY'
import importlib.metadata
import io
import sys
from dataclasses import dataclass
from typing import Annotated

import betterproto
import betterproto2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from pure_protobuf.annotations import Field
from pure_protobuf.message import BaseMessage


@dataclass
class OldSpec(betterproto.Message):
    name: str = betterproto.string_field(1)
    signature: str = betterproto.string_field(3)


@dataclass
class OldRequest(betterproto.Message):
    spec: OldSpec = betterproto.message_field(1)


@dataclass(eq=False, repr=False)
class NewSpec(betterproto2.Message):
    name: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    signature: str = betterproto2.field(3, betterproto2.TYPE_STRING)


@dataclass(eq=False, repr=False)
class NewRequest(betterproto2.Message):
    spec: "NewSpec | None" = betterproto2.field(1, betterproto2.TYPE_MESSAGE, optional=True)


@dataclass
class PureSpec(BaseMessage):
    name: Annotated[str, Field(1)] = ""
    signature: Annotated[str, Field(3)] = ""


@dataclass
class PureRequest(BaseMessage):
    spec: Annotated[PureSpec | None, Field(1)] = None


def google_request():
    text, message = descriptor_pb2.FieldDescriptorProto.TYPE_STRING, descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    optional = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
    file = descriptor_pb2.FileDescriptorProto(name="r.proto", package="r", syntax="proto3")
    spec, request = file.message_type.add(name="Spec"), file.message_type.add(name="Request")
    spec.field.add(name="name", number=1, type=text, label=optional)
    spec.field.add(name="signature", number=3, type=text, label=optional)
    request.field.add(name="spec", number=1, type=message, type_name=".r.Spec", label=optional)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("r.Request"))


def field(number, content):
    return bytes([number << 3 | 2, len(content)]) + content


whole = field(1, field(1, b"half_plus_two") + field(3, b"serving_default"))
parts = field(1, field(1, b"half_plus_two")) + field(1, field(3, b"serving_default"))
libraries = {
    "protobuf": (google_request().FromString, True),
    "betterproto": (OldRequest().parse, False),
    "betterproto2": (NewRequest.parse, False),
    "pure-protobuf": (lambda data: PureRequest.read_from(io.BytesIO(data)), False),
}
print({name: importlib.metadata.version(name) for name in libraries})
for name, (parse, merges) in libraries.items():
    both = ("half_plus_two", "serving_default")
    for label, data, expected in (("whole", whole, both), ("in parts", parts, both if merges else ("", both[1]))):
        spec = parse(data).spec
        found = spec.name, spec.signature
        print(f"{name:13} {label:8} name {found[0]!r}, signature {found[1]!r}")
        if found != expected:
            sys.exit(f"changed: {name}, {label}")
PY
