"""The level of the process log: its words, and the variable that hands one to a sidecar."""

from __future__ import annotations

VARIABLE = "MESHPROXY_LOG_LEVEL"
LEVELS = ("debug", "info", "warning", "error")
