"""The protobuf messages of TensorFlow Serving that the demo, the model server and the tests speak.

The schema below is written in protobuf's own language, with the names and numbers of `tensorflow/core/framework`,
`tensorflow/core/protobuf/meta_graph.proto` and `tensorflow_serving/apis`, cut down to what is used here; it becomes
message classes when this module is imported. So no generated code is kept, TensorFlow is not needed, and the classes
are in a separate pool, so that the official ones can be loaded beside them.

The classes have no types that a checker could know (`Any`), as with every protobuf class made at run time.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_TENSORFLOW = """
enum DataType {
  DT_INVALID = 0; DT_FLOAT = 1; DT_DOUBLE = 2; DT_INT32 = 3; DT_UINT8 = 4; DT_INT16 = 5; DT_INT8 = 6; DT_STRING = 7;
  DT_COMPLEX64 = 8; DT_INT64 = 9; DT_BOOL = 10;
}
message TensorShapeProto {
  message Dim { int64 size = 1; string name = 2; }
  repeated Dim dim = 2;
  bool unknown_rank = 3;
}
message TensorProto {
  DataType dtype = 1;
  TensorShapeProto tensor_shape = 2;
  int32 version_number = 3;
  bytes tensor_content = 4;
  repeated float float_val = 5;
  repeated double double_val = 6;
  repeated int32 int_val = 7;
  repeated bytes string_val = 8;
  repeated int64 int64_val = 10;
  repeated bool bool_val = 11;
}
message TensorInfo { string name = 1; DataType dtype = 2; TensorShapeProto tensor_shape = 3; }
message SignatureDef {
  map<string, TensorInfo> inputs = 1;
  map<string, TensorInfo> outputs = 2;
  string method_name = 3;
}
message BytesList { repeated bytes value = 1; }
message FloatList { repeated float value = 1; }
message Int64List { repeated int64 value = 1; }
message Feature { oneof kind { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
message Features { map<string, Feature> feature = 1; }
message Example { Features features = 1; }
"""

_SERVING = """
message ModelSpec {
  string name = 1;
  oneof version_choice { google.protobuf.Int64Value version = 2; string version_label = 4; }
  string signature_name = 3;
}
message PredictRequest {
  ModelSpec model_spec = 1;
  map<string, TensorProto> inputs = 2;
  repeated string output_filter = 3;
}
message PredictResponse { map<string, TensorProto> outputs = 1; ModelSpec model_spec = 2; }

message ExampleList { repeated Example examples = 1; }
message ExampleListWithContext { repeated Example examples = 1; Example context = 2; }
message Input {
  oneof kind { ExampleList example_list = 1; ExampleListWithContext example_list_with_context = 2; }
}
message Class { string label = 1; float score = 2; }
message Classifications { repeated Class classes = 1; }
message ClassificationResult { repeated Classifications classifications = 1; }
message ClassificationRequest { ModelSpec model_spec = 1; Input input = 2; }
message ClassificationResponse { ClassificationResult result = 1; ModelSpec model_spec = 2; }
message Regression { float value = 1; }
message RegressionResult { repeated Regression regressions = 1; }
message RegressionRequest { ModelSpec model_spec = 1; Input input = 2; }
message RegressionResponse { RegressionResult result = 1; ModelSpec model_spec = 2; }

message InferenceTask { ModelSpec model_spec = 1; string method_name = 2; }
message InferenceResult {
  ModelSpec model_spec = 1;
  oneof result { ClassificationResult classification_result = 2; RegressionResult regression_result = 3; }
}
message MultiInferenceRequest { repeated InferenceTask tasks = 1; Input input = 2; }
message MultiInferenceResponse { repeated InferenceResult results = 1; }

message SignatureDefMap { map<string, SignatureDef> signature_def = 1; }
message GetModelMetadataRequest { ModelSpec model_spec = 1; repeated string metadata_field = 2; }
message GetModelMetadataResponse { ModelSpec model_spec = 1; map<string, google.protobuf.Any> metadata = 2; }

enum Code {
  OK = 0; CANCELLED = 1; UNKNOWN = 2; INVALID_ARGUMENT = 3; DEADLINE_EXCEEDED = 4; NOT_FOUND = 5; UNAVAILABLE = 14;
}
message StatusProto { Code error_code = 1; string error_message = 2; }
message ModelVersionStatus {
  enum State { STATE_UNKNOWN = 0; START = 10; LOADING = 20; AVAILABLE = 30; UNLOADING = 40; END = 50; }
  int64 version = 1;
  State state = 2;
  StatusProto status = 3;
}
message GetModelStatusRequest { ModelSpec model_spec = 1; }
message GetModelStatusResponse { repeated ModelVersionStatus model_version_status = 1; }

message ModelConfig {
  string name = 1;
  string base_path = 2;
  string model_platform = 4;
  map<string, int64> version_labels = 8;
}
message ModelConfigList { repeated ModelConfig config = 1; }
message ModelServerConfig { ModelConfigList model_config_list = 1; }
message ReloadConfigRequest { ModelServerConfig config = 1; }
message ReloadConfigResponse { StatusProto status = 1; }
"""

_FieldProto = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "double": _FieldProto.TYPE_DOUBLE,
    "float": _FieldProto.TYPE_FLOAT,
    "int64": _FieldProto.TYPE_INT64,
    "int32": _FieldProto.TYPE_INT32,
    "bool": _FieldProto.TYPE_BOOL,
    "string": _FieldProto.TYPE_STRING,
    "bytes": _FieldProto.TYPE_BYTES,
}


class _Schema:
    """Reads the language of `.proto` files as far as the texts above use it."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = re.findall(r"[\w.]+|[{}=;<>,]", text)
        self.at = 0

    def take(self, expected: str | None = None) -> str:
        token = self.tokens[self.at]
        if expected is not None and token != expected:
            raise ValueError(f"{expected!r} expected, found {token!r}")
        self.at += 1
        return token

    def is_next(self, token: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at] == token

    def file(self, package: str, *dependencies: str) -> descriptor_pb2.FileDescriptorProto:
        proto = descriptor_pb2.FileDescriptorProto(
            name=f"meshproxy/{package}.proto", package=package, syntax="proto3", dependency=dependencies
        )
        while self.at < len(self.tokens):
            if self.take() == "enum":
                self.enum(proto.enum_type.add())
            else:
                self.message(proto.message_type.add())
        return proto

    def enum(self, proto: descriptor_pb2.EnumDescriptorProto) -> None:
        proto.name = self.take()
        self.take("{")
        while not self.is_next("}"):
            value = proto.value.add(name=self.take())
            self.take("=")
            value.number = int(self.take())
            self.take(";")
        self.take("}")

    def message(self, proto: descriptor_pb2.DescriptorProto) -> None:
        proto.name = self.take()
        self.take("{")
        while not self.is_next("}"):
            if self.is_next("message"):
                self.take()
                self.message(proto.nested_type.add())
            elif self.is_next("enum"):
                self.take()
                self.enum(proto.enum_type.add())
            elif self.is_next("oneof"):
                self.take()
                proto.oneof_decl.add(name=self.take())
                self.take("{")
                while not self.is_next("}"):
                    self.field(proto, oneof=len(proto.oneof_decl) - 1)
                self.take("}")
            else:
                self.field(proto)
        self.take("}")

    def field(self, proto: descriptor_pb2.DescriptorProto, oneof: int | None = None) -> None:
        kind = self.take()
        label = _FieldProto.LABEL_OPTIONAL
        entry: descriptor_pb2.DescriptorProto | None = None
        if kind == "repeated":
            kind, label = self.take(), _FieldProto.LABEL_REPEATED
        elif kind == "map":
            # A map is a repeated message of a key and a value (protobuf.dev/programming-guides/encoding/#maps).
            label = _FieldProto.LABEL_REPEATED
            entry = proto.nested_type.add()
            entry.options.map_entry = True
            self.take("<")
            _set_type(entry.field.add(name="key", number=1, label=_FieldProto.LABEL_OPTIONAL), self.take())
            self.take(",")
            _set_type(entry.field.add(name="value", number=2, label=_FieldProto.LABEL_OPTIONAL), self.take())
            self.take(">")
        field = proto.field.add(name=self.take(), label=label)
        self.take("=")
        field.number = int(self.take())
        self.take(";")
        if oneof is not None:
            field.oneof_index = oneof
        if entry is not None:
            entry.name = kind = "".join(part.capitalize() for part in field.name.split("_")) + "Entry"
        _set_type(field, kind)


def _set_type(field: descriptor_pb2.FieldDescriptorProto, name: str) -> None:
    scalar = _SCALARS.get(name)
    if scalar is None:
        field.type_name = name  # relative: the pool looks it up from the inside out, and tells enum from message
    else:
        field.type = scalar


def _build_pool() -> DescriptorPool:
    pool = DescriptorPool()
    for known in (any_pb2, wrappers_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    tensorflow = _Schema(_TENSORFLOW).file("tensorflow")
    known_files = ("google/protobuf/any.proto", "google/protobuf/wrappers.proto")
    serving = _Schema(_SERVING).file("tensorflow.serving", tensorflow.name, *known_files)
    for file in (tensorflow, serving):
        pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = _build_pool()


def message(name: str) -> Any:
    """The class of a message by its full name, such as `tensorflow.serving.PredictRequest`. KeyError if unknown."""
    return GetMessageClass(POOL.FindMessageTypeByName(name))


TensorProto = message("tensorflow.TensorProto")
ModelSpec = message("tensorflow.serving.ModelSpec")
PredictRequest = message("tensorflow.serving.PredictRequest")
PredictResponse = message("tensorflow.serving.PredictResponse")
Input = message("tensorflow.serving.Input")
ClassificationRequest = message("tensorflow.serving.ClassificationRequest")
ClassificationResponse = message("tensorflow.serving.ClassificationResponse")
RegressionRequest = message("tensorflow.serving.RegressionRequest")
RegressionResponse = message("tensorflow.serving.RegressionResponse")
MultiInferenceRequest = message("tensorflow.serving.MultiInferenceRequest")
MultiInferenceResponse = message("tensorflow.serving.MultiInferenceResponse")
SignatureDefMap = message("tensorflow.serving.SignatureDefMap")
GetModelMetadataRequest = message("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse = message("tensorflow.serving.GetModelMetadataResponse")
GetModelStatusRequest = message("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse = message("tensorflow.serving.GetModelStatusResponse")
ReloadConfigRequest = message("tensorflow.serving.ReloadConfigRequest")
ReloadConfigResponse = message("tensorflow.serving.ReloadConfigResponse")

DT_FLOAT = 1
DT_INT64 = 9

_PREDICTION = "/tensorflow.serving.PredictionService/"
_MODEL = "/tensorflow.serving.ModelService/"

METHODS: dict[str, tuple[Any, Any]] = {
    _PREDICTION + "Predict": (PredictRequest, PredictResponse),
    _PREDICTION + "Classify": (ClassificationRequest, ClassificationResponse),
    _PREDICTION + "Regress": (RegressionRequest, RegressionResponse),
    _PREDICTION + "MultiInference": (MultiInferenceRequest, MultiInferenceResponse),
    _PREDICTION + "GetModelMetadata": (GetModelMetadataRequest, GetModelMetadataResponse),
    _MODEL + "GetModelStatus": (GetModelStatusRequest, GetModelStatusResponse),
    _MODEL + "HandleReloadConfigRequest": (ReloadConfigRequest, ReloadConfigResponse),
}
"""Every unary method that TensorFlow Serving registers: its request and its response."""
