"""TensorFlow Serving's gRPC surface: which method asks for what, and how its messages name models.

- `ModelSpec` is merged from all of its occurrences, the last scalar wins, the last member of a oneof wins.
- A message of a oneof that comes again, and does not say all that an earlier one did, is refused: behind another member
  protobuf-java 4.33 merges it into what was there before, and gogo/protobuf 1.3 never merges it.
- The server's methods are unary, and `body_scan` takes several messages; only `HandleReloadConfigRequest` takes exactly
  one.
- `signature_name` is given also where the server does not look at it (status, metadata), and `version_label` where it
  ignores it (a status is that of all versions): what a request asks for is what must be allowed.
- A reload replaces the whole list of models. The call names those it lists; one that lists none, or gives another kind
  of configuration, names none, and only a rule over every model covers it.

Sources: tensorflow_serving/apis/{model,predict,classification,regression,inference,get_model_metadata,get_model_status,
model_management,prediction_service,model_service}.proto, tensorflow_serving/config/model_server_config.proto.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from meshproxy.codec.grpc import PREFIX_BYTES
from meshproxy.inference.answer_version import BehindOutputs, InFront, front_version, whole_version
from meshproxy.inference.body_rewrite import Finder, MessageRewriter
from meshproxy.inference.body_scan import FIELD_1, BodyKind, BodyScan, Replaced, ScanLimits
from meshproxy.inference.call import Call, Chosen, ModelRef, Verb
from meshproxy.inference.protobuf import FieldWalker, Found, as_int64, malformed, too_many_models
from meshproxy.inference.surface import Comparison, ExampleCounter, Operation, Signals, Tolerance, VersionReader
from meshproxy.inference.tfserving_version import write_number
from meshproxy.inference.unary import read_text, write_bytes, write_varint
from meshproxy.refusal import Reason, Refusal

DEFAULT_SIGNATURE = "serving_default"

_NAME, _VERSION, _SIGNATURE, _LABEL = 0x0A, 0x12, 0x1A, 0x22
_SPEC = (_NAME, _VERSION, _SIGNATURE, _LABEL)
_FIELD_2 = 0x12
_VALUE = 0x08
_CLIENT_ID = 0x32
_UINT64 = (1 << 64) - 1


class ModelSpec:
    """`ModelSpec {name=1, oneof version_choice {Int64Value version=2, version_label=4}, signature_name=3}`, merged from
    all of its occurrences."""

    __slots__ = ("_had_version", "label", "name", "signature", "version")

    def __init__(self) -> None:
        self._had_version = False
        self.name = ""
        self.version: int | None = None
        self.label: str | None = None
        self.signature = ""

    def merge(self, data: bytes, depth: int, walker: FieldWalker) -> None:
        """Another occurrence, `depth` messages deep.

        Raises:
            Refusal: MALFORMED_MESSAGE, or SCAN_LIMIT.
        """
        for tag, value in walker.read_singular(data, _SPEC, depth):
            assert isinstance(value, bytes)
            if tag == _NAME:
                self.name = read_text(value, "the model name")
            elif tag == _SIGNATURE:
                self.signature = read_text(value, "the signature name")
            elif tag == _LABEL:
                self.label = read_text(value, "the version label")
                self.version = None
            else:
                if self.version is None:  # the other member of the oneof, or none: a new Int64Value
                    self.version = 0
                    self.label = None
                numbers = walker.read(value, (_VALUE,), depth + 1)
                if self._had_version and not numbers:
                    raise malformed("a version comes again without its number")
                self._had_version = True
                for _, number in numbers:
                    assert isinstance(number, int)
                    self.version = as_int64(number)

    def ref(self) -> ModelRef:
        version = None if self.version is None else str(self.version)
        return ModelRef(self.name, version, self.label, self.signature or DEFAULT_SIGNATURE)


class NamedBySpec:
    """`model_spec` = 1, singular."""

    __slots__ = ("_spec", "_walker")

    def __init__(self, limits: ScanLimits, walker: FieldWalker) -> None:
        self._spec = ModelSpec()
        self._walker = walker

    def add(self, tag: int, value: bytes) -> None:
        self._spec.merge(value, 1, self._walker)

    def models(self) -> tuple[ModelRef, ...]:
        return (self._spec.ref(),) if self._spec.name else ()

    def finish(self) -> tuple[ModelRef, ...]:
        return self.models() or _missing()


class NamedByTasks:
    """`tasks` = 1, repeated, each with `model_spec` = 1. The server runs all of them on the version of the first and
    compares only their names (servables/tensorflow/multi_inference.cc): each is named as it is."""

    __slots__ = ("_refs", "_walker")

    def __init__(self, limits: ScanLimits, walker: FieldWalker) -> None:
        self._refs: dict[ModelRef, None] = {}
        self._walker = walker

    def add(self, tag: int, value: bytes) -> None:
        spec = ModelSpec()
        for _, part in self._walker.read_singular(value, (FIELD_1,), 1):
            assert isinstance(part, bytes)
            spec.merge(part, 2, self._walker)
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

    __slots__ = ("_had_list", "_is_replaced", "_left", "_refs", "_walker")

    def __init__(self, limits: ScanLimits, walker: FieldWalker) -> None:
        self._had_list = False
        self._is_replaced = False  # the list, by another configuration
        self._refs: dict[ModelRef, None] = {}
        self._left = limits.models
        self._walker = walker

    def add(self, tag: int, value: bytes) -> None:
        for member, choice in self._walker.read_singular(value, (FIELD_1, _FIELD_2), 1):
            assert isinstance(choice, bytes)
            if member == _FIELD_2:
                self._walker.read(choice, (), 2)
                self._refs.clear()
                self._is_replaced = self._had_list
                continue
            if self._is_replaced:
                raise malformed("a list of models comes again, after another configuration")
            self._had_list = True
            for _, config in self._walker.read(choice, (FIELD_1,), 2):
                assert isinstance(config, bytes)
                self._left -= 1
                if self._left < 0:
                    raise too_many_models()
                name = ""
                for _, text in self._walker.read_singular(config, (_NAME,), 3):
                    assert isinstance(text, bytes)
                    name = read_text(text, "the model name")
                if not name:
                    raise malformed("a model of the new configuration has no name")
                self._refs[ModelRef(name)] = None

    def models(self) -> tuple[ModelRef, ...]:
        return tuple(self._refs)

    def finish(self) -> tuple[ModelRef, ...]:
        return tuple(self._refs)


def _missing() -> tuple[ModelRef, ...]:
    """In the words of TensorFlow Serving."""
    raise Refusal(Reason.MALFORMED_MESSAGE, "Missing ModelSpec")


# Another model or version


def replace_spec(occurrences: Sequence[tuple[int, bytes]], chosen: Chosen) -> Replaced:
    """A `model_spec` with another model or version (`body_scan.Replace`)."""
    walker = FieldWalker()
    spec = ModelSpec()
    for _, occurrence in occurrences:
        spec.merge(occurrence, 1, walker)
    return (_ref(spec),), _write(spec, chosen)


def replace_tasks(occurrences: Sequence[tuple[int, bytes]], chosen: Chosen) -> Replaced:
    """All `tasks` with another model or version in the model_spec of each (`body_scan.Replace`): a request is for one
    model (servables/tensorflow/multi_inference.cc)."""
    walker = FieldWalker()
    refs: list[ModelRef] = []
    written: list[bytes] = []
    for _, task in occurrences:
        spec = ModelSpec()
        for _, value in walker.read(task, (FIELD_1,), 1):
            assert isinstance(value, bytes)
            spec.merge(value, 2, walker)
        refs.append(_ref(spec))
        finder = Finder((FIELD_1,))
        finder.find(task)
        written.append(write_bytes(1, _write(spec, chosen) + finder.rest(task)))
    return tuple(refs), b"".join(written)


def _ref(spec: ModelSpec) -> ModelRef:
    if not spec.name:
        _missing()
    return spec.ref()


def _write(spec: ModelSpec, chosen: Chosen) -> bytes:
    """A field 1 with the model_spec. A version is written even where it is 0: there is one, then."""
    inner = write_bytes(1, (spec.name if chosen.model is None else chosen.model).encode())
    if chosen.version is not None:
        inner += write_bytes(2, b"\x08" + write_varint(write_number(chosen.version) & _UINT64))
    if spec.signature:
        inner += write_bytes(3, spec.signature.encode())
    if chosen.version is None and chosen.label is not None:
        inner += write_bytes(4, chosen.label.encode())
    return write_bytes(1, inner)


# What keeps clients together


def client_id(body: bytes) -> bytes | None:
    """`PredictRequest.client_id` (field 6, bytes) of a gRPC body that is one whole, uncompressed message; the last
    occurrence, as protobuf reads it. None if there is none, or it cannot be read; it may be empty.

    1.2 µs, whatever the size of the tensors. (tensorflow_serving/apis/predict.proto)
    """
    if len(body) < PREFIX_BYTES or body[0] or int.from_bytes(body[1:5], "big") != len(body) - PREFIX_BYTES:
        return None
    found: Found = []
    groups: list[int] = []
    try:
        position, _, _ = FieldWalker().walk(body, PREFIX_BYTES, (_CLIENT_ID,), groups, 0, 0, found)
    except Refusal:
        return None
    if not found or groups or position < len(body):
        return None
    value = found[-1][1]
    assert isinstance(value, bytes)
    return value


# The methods

_PREDICTION = b"/tensorflow.serving.PredictionService/"
_MODEL = b"/tensorflow.serving.ModelService/"


# What few sidecars do is imported when it is done: 0.6 MB for answers, 0.2 MB for examples.


def _count_examples(verb: Verb, encoding: bytes | None, limits: ScanLimits) -> ExampleCounter:
    from meshproxy.inference.tfserving_examples import count_grpc

    return count_grpc(verb, encoding, limits)


def _compare(verb: Verb, first: bytes, second: bytes, tolerance: Tolerance) -> Comparison | None:
    from meshproxy.inference.tfserving_answers import compare

    return compare(first, second, True, verb, tolerance)


def _read_signals(verb: Verb, body: bytes) -> Signals | None:
    from meshproxy.inference.tfserving_answers import read_signals

    return read_signals(True, verb, body)


def _rewrite(
    kind: BodyKind,
    call: Call,
    chosen: Chosen,
    limit: int,
    encoding: bytes | None,
    limits: ScanLimits,
) -> MessageRewriter:
    if chosen.version is not None:
        write_number(chosen.version)  # refuses what cannot be written before an upstream is chosen
    return MessageRewriter(kind, call, chosen, limit, encoding, limits)


_BEHIND_OUTPUTS = (BehindOutputs, whole_version)
_VERSIONS: dict[Verb, tuple[Callable[[], VersionReader], Callable[[bytes], str]]] = {
    Verb.PREDICT: _BEHIND_OUTPUTS,
    Verb.CLASSIFY: _BEHIND_OUTPUTS,
    Verb.REGRESS: _BEHIND_OUTPUTS,
    Verb.MULTI_INFERENCE: (partial(InFront, 2), partial(front_version, 2)),
    Verb.METADATA: (partial(InFront, 1), partial(front_version, 1)),
}
"""Who reads the version of a response, in pieces and whole."""


def _keep_parts(verb: Verb, body: bytes, may_see: Callable[[str], bool]) -> bytes:
    from meshproxy.inference.tfserving_parts import keep_message

    return keep_message(verb, body, may_see)


def _operation(path: bytes, kind: BodyKind) -> Operation:
    read_version, read_whole = _VERSIONS.get(kind.verb, (None, None))
    return Operation(
        kind.verb,
        path,
        None,
        scan=partial(BodyScan, kind),
        rewrite_body=partial(_rewrite, kind) if kind.replace is not None else None,
        count_examples=partial(_count_examples, kind.verb) if kind.verb.is_inference else None,
        compare=partial(_compare, kind.verb) if kind.verb.is_inference else None,
        read_signals=partial(_read_signals, kind.verb) if kind.verb.is_inference else None,
        read_version=read_version,
        whole_version=read_whole,
        affinity_key=client_id if kind.verb is Verb.PREDICT else None,
        keep_parts=partial(_keep_parts, kind.verb) if kind.verb in (Verb.STATUS, Verb.METADATA) else None,
    )


METHODS = {
    operation.target: operation
    for operation in (
        _operation(_PREDICTION + b"Predict", BodyKind(Verb.PREDICT, NamedBySpec, replace_spec)),
        _operation(_PREDICTION + b"Classify", BodyKind(Verb.CLASSIFY, NamedBySpec, replace_spec)),
        _operation(_PREDICTION + b"Regress", BodyKind(Verb.REGRESS, NamedBySpec, replace_spec)),
        _operation(_PREDICTION + b"MultiInference", BodyKind(Verb.MULTI_INFERENCE, NamedByTasks, replace_tasks)),
        _operation(_PREDICTION + b"GetModelMetadata", BodyKind(Verb.METADATA, NamedBySpec, replace_spec)),
        _operation(_MODEL + b"GetModelStatus", BodyKind(Verb.STATUS, NamedBySpec, replace_spec)),
        _operation(
            _MODEL + b"HandleReloadConfigRequest",
            BodyKind(Verb.RELOAD, NamedByConfig, is_unary=True, limit="config_bytes"),
        ),
    )
}
