"""Bodies of predict requests and answers of about a given size (tensorflow_serving/apis/predict.proto, api_rest.md)."""

from __future__ import annotations

import json
import struct

DT_FLOAT = 1


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def rest_body(size: int, key: str = "instances") -> bytes:
    """JSON of `size` bytes or a few less: `{"instances": [1.0, 2.0, 5.0]}` at 30."""
    if size <= 40:
        return json.dumps({key: [1.0, 2.0, 5.0]}).encode()
    numbers = b"0.12345678, "
    count = (size - len(key) - 8) // len(numbers)
    return b'{"%b": [%b]}' % (key.encode(), (numbers * count)[:-2])


def tensor(values: int) -> bytes:
    """A TensorProto of one dimension with its floats as `tensor_content`."""
    shape = field(2, field(2, b"\x08" + varint(values)))
    return b"\x08" + varint(DT_FLOAT) + shape + field(4, struct.pack("<f", 0.5) * values)


def model_spec(model: str, signature: str = "") -> bytes:
    spec = field(1, model.encode())
    return spec + field(3, signature.encode()) if signature else spec


def grpc_request(model: str, size: int) -> bytes:
    """A PredictRequest of about `size` bytes, at least one float: `model_spec` first, as every library writes it."""
    head = field(1, model_spec(model))
    values = max(1, (size - len(head) - 20) // 4)
    return head + field(2, field(1, b"x") + field(2, tensor(values)))


def grpc_reply(size: int, model: str = "half_plus_two") -> bytes:
    """A PredictResponse of about `size` bytes: outputs, then the `model_spec` that was used."""
    tail = field(2, model_spec(model, "serving_default"))
    values = max(1, (size - len(tail) - 20) // 4)
    return field(1, field(1, b"y") + field(2, tensor(values))) + tail
