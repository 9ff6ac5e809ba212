"""YAML, read by libyaml: the pages of an installation are long, and each worker reads them when it collects."""

from __future__ import annotations

from typing import Any

import yaml

from meshproxy.config.nodes import LOADER


def read_all(text: str) -> list[Any]:
    """The documents of a text, but for empty ones."""
    return [each for each in yaml.load_all(text, LOADER) if each is not None]
