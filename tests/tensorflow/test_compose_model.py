"""The model of the Compose file: TensorFlow itself reads it, whose loader in C++ is that of TensorFlow Serving."""

from __future__ import annotations

import ctypes
from pathlib import Path

import tensorflow as tf

MODEL = Path(__file__).parents[2] / "deploy" / "compose" / "models" / "half_plus_two" / "1"


def test_it_is_half_plus_two() -> None:
    predict = tf.saved_model.load(str(MODEL)).signatures["serving_default"]
    assert predict(x=tf.constant([1.0, 2.0, 5.0]))["y"].numpy().tolist() == [2.5, 3.0, 4.5]


def test_the_loader_of_tensorflow_serving_takes_it() -> None:
    """TF_LoadSessionFromSavedModel of TensorFlow's C API, which calls tensorflow::LoadSavedModel."""
    (path,) = Path(tf.__file__).parent.glob("libtensorflow_cc.so.*")
    library = ctypes.CDLL(str(path))
    pointer = ctypes.c_void_p
    for function in ("TF_NewSessionOptions", "TF_NewGraph", "TF_NewStatus", "TF_LoadSessionFromSavedModel"):
        getattr(library, function).restype = pointer
    library.TF_Message.restype = ctypes.c_char_p
    status = pointer(library.TF_NewStatus())
    tags = (ctypes.c_char_p * 1)(b"serve")
    options, graph = pointer(library.TF_NewSessionOptions()), pointer(library.TF_NewGraph())
    session = library.TF_LoadSessionFromSavedModel(options, None, str(MODEL).encode(), tags, 1, graph, None, status)
    assert library.TF_GetCode(status) == 0, library.TF_Message(status)
    assert session
