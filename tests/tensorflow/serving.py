"""A gRPC server on TensorFlow Serving's official protos that runs a real SavedModel.

TensorFlow Serving itself is no package; this is what it does with a request, in Python: load the SavedModel, find the
signature, make tensors of the protos, run, make protos of the tensors. Prints one JSON line with its port.
"""

from __future__ import annotations

import json
import signal
import sys
from concurrent import futures
from typing import Any

import grpc
import tensorflow as tf
from google.protobuf import any_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.saved_model import loader_impl
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class HalfPlusTwo(tf.Module):
    """TensorFlow Serving's example of all examples: y = x / 2 + 2."""

    def __init__(self) -> None:
        super().__init__()
        self.a = tf.Variable(0.5)
        self.b = tf.Variable(2.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def predict(self, x: Any) -> dict[str, Any]:
        return {"y": self.a * x + self.b}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(self, examples: Any) -> dict[str, Any]:
        x = tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]
        return {"outputs": self.a * x + self.b}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def size(self, x: Any) -> dict[str, Any]:
        return {"y": tf.reshape(tf.size(x, out_type=tf.int64), [1])}


def save(directory: str) -> None:
    module = HalfPlusTwo()
    signatures = {"serving_default": module.predict, "regress_x_to_y": module.regress, "size": module.size}
    tf.saved_model.save(module, directory, signatures=signatures)


class Serving(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """PredictionService and ModelService over one version of one model."""

    def __init__(self, name: str, directory: str) -> None:
        self._name = name
        self._model = tf.saved_model.load(directory)
        self._graph: meta_graph_pb2.MetaGraphDef = loader_impl.parse_saved_model(directory).meta_graphs[0]

    def _signature(self, spec: Any, context: grpc.ServicerContext) -> Any:
        if spec.name != self._name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({spec.name})")
        if spec.WhichOneof("version_choice") == "version" and spec.version.value != 1:
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"Servable not found for request: Specific({spec.name}, {spec.version.value})",
            )
        name = spec.signature_name or "serving_default"
        if name not in self._model.signatures:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f'Serving signature name: "{name}" not found in signature def'
            )
        return self._model.signatures[name]

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        signature = self._signature(request.model_spec, context)
        tensors = {name: tf.constant(tf.make_ndarray(proto)) for name, proto in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        for name, tensor in signature(**tensors).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(tensor.numpy()))
        response.model_spec.CopyFrom(request.model_spec)
        response.model_spec.version.value = 1
        return response

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        examples = [example.SerializeToString() for example in request.input.example_list.examples]
        response = inference_pb2.MultiInferenceResponse()
        for task in request.tasks:
            signature = self._signature(task.model_spec, context)
            result = response.results.add()
            result.model_spec.CopyFrom(task.model_spec)
            for value in signature(inputs=tf.constant(examples))["outputs"].numpy():
                result.regression_result.regressions.add(value=value)
        return response

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._signature(request.model_spec, context)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in self._graph.signature_def.items():
            signatures.signature_def[name].CopyFrom(signature)
        packed = any_pb2.Any()
        packed.Pack(signatures)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = self._name
        response.model_spec.version.value = 1
        response.metadata["signature_def"].CopyFrom(packed)
        return response

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(version=1, state=get_model_status_pb2.ModelVersionStatus.AVAILABLE)
        return response


def main(name: str, directory: str) -> None:
    save(directory)
    serving = Serving(name, directory)
    server = grpc.server(futures.ThreadPoolExecutor(4), options=UNLIMITED)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(serving, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(serving, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: server.stop(0))
    print(json.dumps({"event": "listening", "grpc": f"127.0.0.1:{port}"}), flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
