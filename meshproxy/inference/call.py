"""What is being called: the verb and the models that a request names, whatever wire surface it came over."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verb(Enum):
    """What a caller wants of a model. The values are the words of `ModelRole` rules."""

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
    """A gRPC method outside `tensorflow.` that no wire surface of ours knows."""

    __hash__ = object.__hash__  # members are single: by identity, in C

    @property
    def is_admin(self) -> bool:
        """Denied unless a rule grants it by name, even where no role exists."""
        return self in ADMIN_VERBS


ADMIN_VERBS = frozenset({Verb.RELOAD, Verb.METRICS, Verb.PROFILE, Verb.REFLECT, Verb.UNLISTED})


@dataclass(frozen=True, slots=True)
class ModelRef:
    """One model as a request names it (tensorflow_serving/apis/model.proto, ModelSpec)."""

    name: str
    version: int | None = None
    """None: whatever the server has loaded last, unless `label` says."""
    label: str | None = None
    signature: str | None = None
    """None: the wire surface does not show it (it is inside a JSON body). Empty in a gRPC message means the default
    signature and is given as `serving_default`."""


@dataclass(frozen=True, slots=True)
class Call:
    """A verb and every model it is to be done to. Hashable: decisions are memoised by it."""

    verb: Verb
    models: tuple[ModelRef, ...] = ()
    """Empty for verbs about the server as a whole: only a rule over every model (`*`) covers those."""
