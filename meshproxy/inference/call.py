"""What a request asks for: a verb and the models it names, whatever wire surface the request came over."""

from __future__ import annotations

from enum import Enum

import msgspec

_INFERENCE = ("predict", "classify", "regress", "multi-inference")
_VERSIONED = (*_INFERENCE, "metadata")
_IDEMPOTENT = (*_VERSIONED, "status")
_ADMIN = ("reload", "metrics", "profile", "reflect", "unlisted")


class Verb(Enum):
    """What a caller wants of a model. The values are the words of `ModelRole` rules.

    Attributes:
        is_inference: a model computes an answer.
        is_versioned: one version of the model answers. A status call is not: without a version it asks about all of
            them, so to write one into it would make it another question.
        is_idempotent: doing it twice is like doing it once. What documents have by default as `retries.verbs`.
        is_admin: denied unless a rule grants it by name, even where no role exists.

    The attributes are set once for each member, so that to read one takes 0.02 us: a property would take 0.1.
    """

    PREDICT = "predict"
    CLASSIFY = "classify"
    REGRESS = "regress"
    MULTI_INFERENCE = "multi-inference"
    METADATA = "metadata"
    STATUS = "status"
    RELOAD = "reload"
    METRICS = "metrics"
    """The model server's own Prometheus page."""
    PROFILE = "profile"
    REFLECT = "reflect"
    UNLISTED = "unlisted"
    """A gRPC method that no wire surface of ours knows."""

    __hash__ = object.__hash__  # members are single: by identity, in C

    def __init__(self, word: str) -> None:
        self.is_inference = word in _INFERENCE
        self.is_versioned = word in _VERSIONED
        self.is_idempotent = word in _IDEMPOTENT
        self.is_admin = word in _ADMIN


class ModelRef(msgspec.Struct, frozen=True):
    """One model as a request names it (tensorflow_serving/apis/model.proto, ModelSpec)."""

    name: str
    version: str | None = None
    """In the one form that its wire surface has for it, so that equal versions are equal texts (for TensorFlow Serving:
    `tfserving_version`). None: the version that the server loaded last, unless `label` is given."""
    label: str | None = None
    signature: str | None = None
    """None: the wire surface does not show it (it is inside a JSON body). Empty in a gRPC message means the default
    signature and is given as `serving_default`."""

    @property
    def named_version(self) -> str | None:
        """The version or label that it names."""
        return self.version or self.label or None


class Chosen(msgspec.Struct, frozen=True):
    """What a route writes into a request, in place of what that names. Without version and label: the server's
    latest."""

    model: str | None = None
    """None: the model that the request names."""
    version: str | None = None
    label: str | None = None


class Call(msgspec.Struct, frozen=True):
    """A verb and every model that it is asked of. Hashable: decisions are memoised by it."""

    verb: Verb
    models: tuple[ModelRef, ...] = ()
    """Empty for verbs about the server as a whole: only a rule over every model (`*`) covers those."""
