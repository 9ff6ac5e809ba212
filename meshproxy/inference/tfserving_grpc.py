"""TensorFlow Serving's gRPC surface: which method asks what, and which models a request body names.

A gRPC call says its model inside the protobuf body, so the body is scanned while it passes. Nothing is held but the
sub-messages that name models, and those under a limit.

- A message is read as C++ protobuf reads it, or refused (`protobuf`): a singular sub-message that occurs again is
  merged, the last scalar wins, the last member of a oneof wins. What a body says can therefore change until its last
  byte; `feed` tells each time it does.
- The server's methods are unary, but a body may hold several messages: each is scanned, and the call then names every
  model that any of them does. So a client that streams meets the server's own answer, and gets past nothing. Only
  `HandleReloadConfigRequest` takes exactly one.
- `signature_name` is given also where the server does not look at it (status, metadata), and `version_label` where it
  ignores it (a status is that of all versions): what a request asks for is what must be allowed.
- A reload replaces the whole list of models. The call names those it lists; one that lists none, or gives another kind
  of configuration, names none, and only a rule over every model covers it.

Sources: tensorflow_serving/apis/{model,predict,classification,regression,inference,get_model_metadata,get_model_status,
model_management,prediction_service,model_service}.proto, tensorflow_serving/config/model_server_config.proto.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from meshproxy.codec.grpc import Deframer, MessagePart, Misframed
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.inference.inflate import Inflater
from meshproxy.inference.names import BadName, read_name
from meshproxy.inference.protobuf import FieldScanner, FieldWalker, as_int64, holds_only_others, malformed
from meshproxy.refusal import Reason, Refusal

DEFAULT_SIGNATURE = "serving_default"
MESSAGE_BYTES = 0x7FFFFFFF
"""A message as it is on the wire: what TensorFlow Serving itself takes (INT32_MAX)."""
MEMO_ENTRIES = 1024
"""Of each method: bytes that name models -> the call. About 0.5 KB each."""
MEMO_MODELS = 4
"""Calls with more models are not remembered: a thousand names in a thousand calls would be 256 MB."""


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """Limits of one scanned body. Sizes are bytes. Exceeding one names it (`Refusal.limit`)."""

    spec_bytes: int = 65_536
    """All that one message says about its models, held until it is complete: a model_spec has some 50 bytes."""
    config_bytes: int = 1_048_576
    """The same for a reload: a list of models with their paths."""
    models: int = 1_024
    """Sub-messages that name a model, in one call."""
    inflated_bytes: int = 67_108_864
    """A compressed message, inflated."""
    inflated_free: int = 1_048_576
    """What the messages of one call may inflate to, whatever they compressed to. 1 MiB costs 1.5 ms."""
    inflated_ratio: int = 100
    """What they may inflate to beyond that, for each byte received."""


DEFAULT_LIMITS = ScanLimits()


class Naming(Protocol):
    """What one message has said so far about the models it is for.

    Every method may raise Refusal (MALFORMED_MESSAGE or SCAN_LIMIT).
    """

    def __init__(self, limits: ScanLimits) -> None: ...

    def add(self, occurrence: bytes) -> None:
        """The message's field 1 occurred, in the order of the wire."""

    def models(self) -> tuple[ModelRef, ...]:
        """The models as they would be if the message ended now; empty while none is named."""

    def finish(self) -> tuple[ModelRef, ...]:
        """The message has ended."""


_NAME, _VERSION, _SIGNATURE, _LABEL = 0x0A, 0x12, 0x1A, 0x22
_SPEC = (_NAME, _VERSION, _SIGNATURE, _LABEL)
_FIELD_1 = 0x0A
_FIELD_2 = 0x12
_VALUE = 0x08


class ModelSpec:
    """`ModelSpec {name=1, oneof version_choice {Int64Value version=2, version_label=4}, signature_name=3}`, merged from
    all of its occurrences."""

    __slots__ = ("label", "name", "signature", "version")

    def __init__(self) -> None:
        self.name = ""
        self.version: int | None = None
        self.label: str | None = None
        self.signature = ""

    def merge(self, data: bytes, depth: int, walker: FieldWalker) -> None:
        """Another occurrence, `depth` messages deep.

        Raises:
            Refusal: MALFORMED_MESSAGE, or SCAN_LIMIT.
        """
        for tag, value in walker.read(data, _SPEC, depth):
            assert isinstance(value, bytes)
            if tag == _NAME:
                self.name = _read_text(value, "model name")
            elif tag == _SIGNATURE:
                self.signature = _read_text(value, "signature name")
            elif tag == _LABEL:
                self.label = _read_text(value, "version label")
                self.version = None
            else:
                if self.version is None:  # the other member of the oneof, or none: a new Int64Value
                    self.version = 0
                    self.label = None
                for _, number in walker.read(value, (_VALUE,), depth + 1):
                    assert isinstance(number, int)
                    self.version = as_int64(number)

    def ref(self) -> ModelRef:
        return ModelRef(self.name, self.version, self.label, self.signature or DEFAULT_SIGNATURE)


class NamedBySpec:
    """`model_spec` = 1, singular."""

    __slots__ = ("_left", "_spec", "_walker")

    def __init__(self, limits: ScanLimits) -> None:
        self._spec = ModelSpec()
        self._left = limits.models
        self._walker = FieldWalker()

    def add(self, occurrence: bytes) -> None:
        self._left = _one_less(self._left)
        self._spec.merge(occurrence, 1, self._walker)

    def models(self) -> tuple[ModelRef, ...]:
        return (self._spec.ref(),) if self._spec.name else ()

    def finish(self) -> tuple[ModelRef, ...]:
        return self.models() or _missing()


class NamedByTasks:
    """`tasks` = 1, repeated, each with `model_spec` = 1. The server runs all of them on the version of the first and
    compares only their names (servables/tensorflow/multi_inference.cc): each is named as it is."""

    __slots__ = ("_left", "_refs", "_walker")

    def __init__(self, limits: ScanLimits) -> None:
        self._refs: dict[ModelRef, None] = {}
        self._left = limits.models
        self._walker = FieldWalker()

    def add(self, occurrence: bytes) -> None:
        self._left = _one_less(self._left)
        spec = ModelSpec()
        for _, value in self._walker.read(occurrence, (_FIELD_1,), 1):
            assert isinstance(value, bytes)
            spec.merge(value, 2, self._walker)
        if not spec.name:
            _missing()
        self._refs[spec.ref()] = None

    def models(self) -> tuple[ModelRef, ...]:
        return tuple(self._refs)

    def finish(self) -> tuple[ModelRef, ...]:
        return self.models() or _missing()


class NamedByConfig:
    """`ModelServerConfig config=1 {oneof {ModelConfigList model_config_list=1 {repeated ModelConfig config=1 {name=1}},
    Any custom_model_config=2}}`."""

    __slots__ = ("_left", "_refs", "_walker")

    def __init__(self, limits: ScanLimits) -> None:
        self._refs: dict[ModelRef, None] = {}
        self._left = limits.models
        self._walker = FieldWalker()

    def add(self, occurrence: bytes) -> None:
        for member, value in self._walker.read(occurrence, (_FIELD_1, _FIELD_2), 1):
            assert isinstance(value, bytes)
            if member == _FIELD_2:
                self._walker.read(value, (), 2)
                self._refs.clear()
                continue
            for _, config in self._walker.read(value, (_FIELD_1,), 2):
                assert isinstance(config, bytes)
                self._left = _one_less(self._left)
                name = ""
                for _, text in self._walker.read(config, (_NAME,), 3):
                    assert isinstance(text, bytes)
                    name = _read_text(text, "model name")
                if not name:
                    raise malformed("a model of the new configuration has no name")
                self._refs[ModelRef(name)] = None

    def models(self) -> tuple[ModelRef, ...]:
        return tuple(self._refs)

    def finish(self) -> tuple[ModelRef, ...]:
        return tuple(self._refs)


def _read_text(raw: bytes, what: str) -> str:
    try:
        return read_name(raw)
    except BadName as bad:
        raise malformed(f"the {what} {bad}") from None


def _one_less(left: int) -> int:
    if not left:
        raise Refusal(Reason.SCAN_LIMIT, "A call names too many models.", limit="models")
    return left - 1


def _missing() -> tuple[ModelRef, ...]:
    """In the words of TensorFlow Serving."""
    raise Refusal(Reason.MALFORMED_MESSAGE, "Missing ModelSpec")


@dataclass(frozen=True, slots=True)
class GrpcMethod:
    """A method that a client may ask for, if the policy lets it."""

    path: bytes
    verb: Verb
    naming: type[Naming] | None = None
    """How the body names models; None: it names none, `call` is all there is to know, and the body needs no scan."""
    unary: bool = False
    """Exactly one message: another one is refused."""
    call: Call = field(init=False)
    """The call without any model."""
    memo: dict[bytes, Call] = field(init=False, default_factory=dict, repr=False, compare=False)
    """Of `BodyScan`: the bytes of a field 1 that stands alone in its message -> the call."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "call", Call(self.verb))

    def scan(self, encoding: bytes | None = None, limits: ScanLimits = DEFAULT_LIMITS) -> BodyScan:
        """The scan of one request body. Only where `naming` is.

        Args:
            encoding: the value of `grpc-encoding`, if there is one.
        """
        return BodyScan(self, encoding, limits)


_PREDICTION = b"/tensorflow.serving.PredictionService/"
_MODEL = b"/tensorflow.serving.ModelService/"

METHODS = {
    method.path: method
    for method in (
        GrpcMethod(_PREDICTION + b"Predict", Verb.PREDICT, NamedBySpec),
        GrpcMethod(_PREDICTION + b"Classify", Verb.CLASSIFY, NamedBySpec),
        GrpcMethod(_PREDICTION + b"Regress", Verb.REGRESS, NamedBySpec),
        GrpcMethod(_PREDICTION + b"MultiInference", Verb.MULTI_INFERENCE, NamedByTasks),
        GrpcMethod(_PREDICTION + b"GetModelMetadata", Verb.METADATA, NamedBySpec),
        GrpcMethod(_MODEL + b"GetModelStatus", Verb.STATUS, NamedBySpec),
        GrpcMethod(_MODEL + b"HandleReloadConfigRequest", Verb.RELOAD, NamedByConfig, unary=True),
        GrpcMethod(b"/grpc.health.v1.Health/Check", Verb.STATUS),
        GrpcMethod(b"/grpc.health.v1.Health/Watch", Verb.STATUS),
        GrpcMethod(b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Verb.REFLECT),
        GrpcMethod(b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Verb.REFLECT),
    )
}

_PATH = re.compile(rb"/((?:[A-Za-z_][A-Za-z0-9_]*\.)*[A-Za-z_][A-Za-z0-9_]*)/[A-Za-z_][A-Za-z0-9_]*")
PATH_BYTES = 512
_PROFILERS = (b"tensorflow.ProfilerService", b"tensorflow.ProfileAnalysis")


def method(path: bytes) -> GrpcMethod | None:
    """The method of a `:path`, or None if it is none that may ever be called: not exactly `/package.Service/Method`, or
    TensorFlow's own but not in the table (`SessionService/SessionRun` runs any part of any graph)."""
    return METHODS.get(path) or (_unlisted(path) if len(path) <= PATH_BYTES else None)


@lru_cache(maxsize=256)
def _unlisted(path: bytes) -> GrpcMethod | None:
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    service = match[1]
    if service in _PROFILERS:
        return GrpcMethod(path, Verb.PROFILE)
    # gRPC compares case; whoever spells it otherwise has nothing good in mind.
    if service.lower().split(b".")[0] == b"tensorflow":
        return None
    return GrpcMethod(path, Verb.UNLISTED)


class BodyScan:
    """Reads the call out of one gRPC request body while the body passes.

    Attributes:
        call: what has been returned last; None until then.
    """

    __slots__ = ("_encoding", "_limits", "_memo", "_method", "_slow", "call")

    def __init__(self, method: GrpcMethod, encoding: bytes | None, limits: ScanLimits) -> None:
        self.call: Call | None = None
        self._method = method
        self._memo = method.memo
        self._encoding = encoding
        self._limits = limits
        self._slow: _Stream | None = None

    @property
    def complete(self) -> bool:
        """A call has been returned. It may still change."""
        return self.call is not None

    def feed(self, data: bytes, end: bool) -> Call | None:
        """Bytes of the body, cut anywhere -> the call, if it became known or changed with them.

        A change replaces what was returned before: whoever forwards must decide again before these bytes go on. The
        call is complete at `end`; a body that names no model by then is refused.

        Raises:
            Refusal: MALFORMED_MESSAGE, BODY_TOO_LARGE, SCAN_LIMIT, UNSUPPORTED_ENCODING. The scan is over then.
        """
        if self._slow is None:
            # Nearly every request: one small message in one piece, in which field 1 comes first and once. Then what it
            # names depends on the bytes of that field alone, which are remembered: 0.6 µs instead of 10.
            if self.call is None and len(data) > 7 and data[5] == _FIELD_1 and not data[0]:
                stop = 7 + data[6]
                whole = stop <= len(data) == 5 + int.from_bytes(data[1:5], "big")
                if whole and data[6] < 0x80 and holds_only_others(data, stop):
                    occurrence = data[7:stop]
                    call = self._memo.get(occurrence) or self._learn(occurrence)
                    if call is not None:
                        self.call = call
                        return call
            elif not data and (self.call is not None or not end):
                return None
            self._slow = _Stream(self._method, self._encoding, self._limits, self.call)
        call = self._slow.feed(data, end)
        if call is None or call == self.call:
            return None
        self.call = call
        return call

    def _learn(self, occurrence: bytes) -> Call | None:
        """The call of a message with this field 1 and no other; None if that is not enough."""
        naming = self._method.naming
        assert naming is not None
        said = naming(self._limits)
        said.add(occurrence)
        models = said.models()
        if not models:
            return None
        call = _intern(Call(self._method.verb, models))
        if len(models) <= MEMO_MODELS:
            if len(self._memo) >= MEMO_ENTRIES:
                self._memo.clear()
            self._memo[occurrence] = call
        return call


class _Stream:
    """The messages of one body, whatever their shape."""

    __slots__ = ("_deframer", "_encoding", "_inflater", "_limits", "_message", "_method", "_models", "_past")

    def __init__(self, method: GrpcMethod, encoding: bytes | None, limits: ScanLimits, call: Call | None) -> None:
        """`call`: of a message that has already passed, if one has."""
        self._method = method
        self._encoding = encoding
        self._limits = limits
        self._deframer = Deframer()
        self._inflater: Inflater | None = None
        self._message: _Message | None = None
        self._past = int(call is not None)
        self._models = dict.fromkeys(call.models) if call is not None else {}

    def feed(self, data: bytes, end: bool) -> Call | None:
        """Returns the call if it may have changed. Raises as `BodyScan.feed`."""
        news = False
        for part in self._deframer.receive(data):
            if isinstance(part, Misframed):
                raise malformed(part.reason)
            message = self._message
            if message is None:
                message = self._message = self._begin(part)
            news |= message.feed(part.data)
            if part.end:
                self._message = None
                self._models.update(dict.fromkeys(message.finish()))
                if len(self._models) > self._limits.models:
                    _one_less(0)
                news = True
        if end:
            if not self._deframer.is_idle:
                raise malformed("the body ends within a message")
            if not self._past:
                raise malformed("the body has no message")
        if not news:
            return None
        models = self._models
        if self._message is not None:
            models = models | dict.fromkeys(self._message.models())
            if not models:
                return None
        return _intern(Call(self._method.verb, tuple(models)))

    def _begin(self, part: MessagePart) -> _Message:
        if self._past and self._method.unary:
            raise malformed("the method takes one message")
        self._past += 1
        if part.size > MESSAGE_BYTES:
            raise Refusal(
                Reason.BODY_TOO_LARGE, f"A message is longer than {MESSAGE_BYTES} bytes.", limit="message_bytes"
            )
        if part.compressed and self._inflater is None:
            limits = self._limits
            self._inflater = Inflater(
                self._encoding, limits.inflated_bytes, limits.inflated_free, limits.inflated_ratio
            )
        return _Message(self._method, part, self._inflater if part.compressed else None, self._limits)


class _Message:
    """One message on its way through."""

    __slots__ = ("_inflater", "_naming", "_scanner")

    def __init__(self, method: GrpcMethod, part: MessagePart, inflater: Inflater | None, limits: ScanLimits) -> None:
        assert method.naming is not None
        self._naming = method.naming(limits)
        self._inflater = inflater
        limit, limit_name = limits.spec_bytes, "spec_bytes"
        if method.verb is Verb.RELOAD:
            limit, limit_name = limits.config_bytes, "config_bytes"
        size = part.size if inflater is None else limits.inflated_bytes
        self._scanner = FieldScanner(_FIELD_1, size, limit, limit_name)

    def feed(self, data: bytes) -> bool:
        """Whether it has said something new about its models."""
        news = False
        for piece in (data,) if self._inflater is None else self._inflater.feed(data):
            for occurrence in self._scanner.feed(piece):
                self._naming.add(occurrence)
                news = True
        return news

    def models(self) -> tuple[ModelRef, ...]:
        return self._naming.models()

    def finish(self) -> tuple[ModelRef, ...]:
        if self._inflater is not None:
            self._inflater.finish()
        self._scanner.finish()
        return self._naming.finish()


_calls: dict[Call, Call] = {}


def _intern(call: Call) -> Call:
    """Equal calls as one object, as long as it is remembered: decisions are looked up by it."""
    if len(call.models) > MEMO_MODELS:
        return call
    if len(_calls) >= MEMO_ENTRIES:
        _calls.clear()
    return _calls.setdefault(call, call)
