"""`meshproxy model-server`: a stand-in for TensorFlow Serving, for development."""

from __future__ import annotations

from meshproxy.devtools.model_server import command

__all__ = ["command"]
