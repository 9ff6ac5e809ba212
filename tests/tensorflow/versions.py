"""A gRPC server on TensorFlow Serving's official protos with several versions of one real SavedModel: a good one
beside the first, a slow one, one whose answers hold NaN, one whose classes have shifted, and one that needs a file
which is not there. Prints one JSON line with its port.
"""

from __future__ import annotations

import json
import signal
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

MODEL = "classifier"
STABLE, GOOD, SLOW, NAN, SHIFTED, BROKEN = 1, 2, 3, 4, 5, 6
CODES = {code.value[0]: code for code in grpc.StatusCode}


class Classifier(tf.Module):
    """Four inputs, four classes."""

    def __init__(self, version: int) -> None:
        super().__init__()
        weights = numpy.random.default_rng(1).normal(size=(4, 4)).astype("float32")
        noise = numpy.random.default_rng(version).normal(size=(4, 4)).astype("float32")
        self.weights = tf.Variable(weights + (0.01 * noise if version == GOOD else 0))
        self.bias = tf.Variable([4.0 if version == SHIFTED else 0.0, 0.0, 0.0, 0.0])
        self.version = version

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def predict(self, x: Any) -> dict[str, Any]:
        logits = tf.matmul(x, self.weights) + self.bias
        if self.version == SLOW:
            work = tf.random.normal([160, 160])
            for _ in tf.range(40):
                work = tf.tanh(tf.matmul(work, work))
            logits += 0.0 * tf.reduce_mean(work)
        if self.version == NAN:
            logits = tf.where(x[:, :1] > 1.0, tf.math.log(-tf.abs(logits) - 1.0), logits)
        if self.version == BROKEN:
            logits += 0.0 * tf.cast(tf.strings.length(tf.io.read_file("/nonexistent/vocabulary.txt")), tf.float32)
        return {"scores": tf.nn.softmax(logits)}


class Serving(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, of all versions."""

    def __init__(self, folder: Path) -> None:
        self._models = {}
        for version in (STABLE, GOOD, SLOW, NAN, SHIFTED, BROKEN):
            module = Classifier(version)
            tf.saved_model.save(module, str(folder / str(version)), signatures={"serving_default": module.predict})
            self._models[version] = tf.saved_model.load(str(folder / str(version)))

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        version = request.model_spec.version.value
        if request.model_spec.name != MODEL or version not in self._models:
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request")
        tensors = {name: tf.constant(tf.make_ndarray(proto)) for name, proto in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        try:
            for name, tensor in self._models[version].signatures["serving_default"](**tensors).items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(tensor.numpy()))
        except tf.errors.OpError as error:
            context.abort(CODES[error.error_code], str(error.message)[:200])
        response.model_spec.CopyFrom(request.model_spec)
        return response


def main(folder: str) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Serving(Path(folder)), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: server.stop(0))
    print(json.dumps({"event": "listening", "grpc": f"127.0.0.1:{port}"}), flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1])
