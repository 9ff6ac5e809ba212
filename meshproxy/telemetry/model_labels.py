"""Which model names and versions may be label values: clients must not be able to create series.

A name or version has its own series if the documents mention it, or if the model server successfully answered an
allowed request for it. All others are `_other`. Both kinds are bounded.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshproxy.config.globs import is_literal
from meshproxy.inference.call import Call
from meshproxy.telemetry.metrics import OTHER

NONE = "_none"
"""The request names no model, or was refused before its model was known."""
LATEST = "latest"
"""The request names no version, so that the model server uses the latest, and its answer does not name that."""

MAX_SERVED_MODELS = 200
"""Served names that the documents do not mention: a role for `*` must not allow filling the memory."""
MAX_SERVED_VERSIONS = 64
"""Served versions and labels of one model that the documents do not mention."""
MAX_LENGTH = 128
"""Characters of a served name; longer ones are `_other`."""


class ModelLabels:
    """The labels `model` and `version` of a call.

    Args:
        max_models: the most served names that no document mentions.
        max_versions: the same for the versions of one model.
    """

    def __init__(self, max_models: int = MAX_SERVED_MODELS, max_versions: int = MAX_SERVED_VERSIONS) -> None:
        self._max_models = max_models
        self._max_versions = max_versions
        self._mentioned: frozenset[str] = frozenset()
        self._mentioned_versions: frozenset[str] = frozenset()
        self._served: set[str] = set()
        self._served_versions: dict[str, set[str]] = {}

    def mention(self, models: Iterable[str], versions: Iterable[str] = ()) -> None:
        """Replace what the documents mention: names, and versions or labels of any model. A glob mentions nothing."""
        self._mentioned = frozenset(name for name in models if is_literal(name))
        self._mentioned_versions = frozenset(versions)
        for gone in self._served_versions.keys() - self._mentioned - self._served:
            del self._served_versions[gone]

    def read(self, call: Call | None, *, was_served: bool, effective: str = "") -> tuple[str, str]:
        """The values of the two labels for one call.

        Args:
            effective: the version that answered, where the call names none; empty if that is not known.
            was_served: it was allowed and the model server answered with success, so its labels are learned.
        """
        if call is None or not call.models:
            return NONE, NONE
        model = call.models[0]
        if any(other.name != model.name for other in call.models):
            return OTHER, OTHER
        learns = was_served and not call.verb.is_admin
        if not self._knows_model(model.name, learns):
            return OTHER, OTHER
        if model.version is not None:
            version = model.version
        elif model.label is not None:
            version = model.label
        elif effective:
            version = effective
        else:
            return model.name, LATEST
        return model.name, version if self._knows_version(model.name, version, learns) else OTHER

    def name(self, model: str) -> str:
        """The value of the label `model` for a name, which is not learned."""
        return model if self._knows_model(model, learns=False) else OTHER

    def known(self, most: int) -> frozenset[str]:
        """The names that have series of their own, without those of documents if they mention more than `most`."""
        return self._mentioned.union(self._served) if len(self._mentioned) <= most else frozenset(self._served)

    def _knows_model(self, name: str, learns: bool) -> bool:
        if name in self._mentioned or name in self._served:
            return True
        if learns and len(self._served) < self._max_models and _is_fit(name):
            self._served.add(name)
            return True
        return False

    def _knows_version(self, name: str, version: str, learns: bool) -> bool:
        if version in self._mentioned_versions:
            return True
        served = self._served_versions.get(name, ())
        if version in served:
            return True
        if learns and len(served) < self._max_versions and _is_fit(version):
            self._served_versions.setdefault(name, set()).add(version)
            return True
        return False


def _is_fit(value: str) -> bool:
    # `isprintable` is False for control characters and for lone surrogates, which cannot be exposed.
    return 0 < len(value) <= MAX_LENGTH and value.isprintable()
