"""The schema of OCSF, for lines of the audit trail."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA = Path(__file__).with_name("ocsf-1.8.0.json")


@cache
def _validator(class_uid: str) -> Any:
    schema = json.loads(SCHEMA.read_text())
    return jsonschema.Draft202012Validator({**schema["classes"][class_uid], "$defs": schema["$defs"]})


def check_ocsf(line: bytes) -> dict[str, Any]:
    """A line that its class of OCSF 1.8.0 allows. Raises jsonschema.ValidationError."""
    read: dict[str, Any] = json.loads(line)
    _validator(str(read["class_uid"])).validate(read)
    return read
