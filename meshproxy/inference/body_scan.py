"""Finds the call in a gRPC request body while the body passes, for every wire surface whose messages
name models in a field.

Nothing is held but the field that names models, and that under a limit.

- A message is read as C++ protobuf reads it, or refused (`protobuf`): a field that occurs again is given to the
  surface's `Naming` in the order of the wire, which merges as protobuf does. What a body says can therefore change
  until its last byte; `feed` returns each change.
- A compressed message is inflated in slices, and much that names models is read in slices, with whatever else there is
  to do in between: `is_behind`.
- A body may hold several messages, also where the method is unary: each is scanned, and the call then names every model
  that any of them does. A client that streams to a unary method gets the server's own answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from meshproxy.codec.grpc import Deframer, MessagePart, Misframed
from meshproxy.inference.call import Call, Chosen, ModelRef, Verb
from meshproxy.inference.inflate import PIECE_BYTES, Inflater
from meshproxy.inference.protobuf import (
    FREE_FIELDS,
    OCCURRENCES,
    FieldScanner,
    FieldWalker,
    holds_only_others,
    malformed,
    too_many_models,
)
from meshproxy.refusal import Reason, Refusal

MESSAGE_BYTES = 0x7FFFFFFF
"""A message as it is on the wire: what gRPC servers take (INT32_MAX)."""
SLICE_BYTES = 262_144
"""Inflated at once: 0.6 ms where it is all zeros."""
WALKED_BYTES = 4_096
WALKED_FIELDS = 2_048
"""What is walked over at once, if the fields are small: two bytes take 0.2 to 0.5 us."""
NAMED_BYTES = 1_024
"""Of what names models, read at once: up to 1 ms, where bytes before the last were only kept. 20 tasks have as many."""
FIELD_BYTES = 16
"""That one field counts for beside its value: an empty one costs as much to read."""
MEMO_ENTRIES = 1024
"""Of each method: bytes that name models -> the call. About 0.5 KB each."""
MEMO_MODELS = 4
"""Calls with more models are not remembered: a thousand names in a thousand calls would be 256 MB."""
FIELD_1 = 0x0A
"""The tag of field 1, length-delimited."""


class ScanLimits(msgspec.Struct, frozen=True):
    """Limits of one scanned body. Sizes are bytes. Exceeding one names it (`Refusal.limit`)."""

    spec_bytes: int = 65_536
    """All that one message says about its models, held until it is complete: a model_spec has some 50 bytes."""
    config_bytes: int = 1_048_576
    """The same for a reload: a list of models with their paths."""
    models: int = OCCURRENCES
    """Sub-messages that name a model, in one call."""
    decided_models: int = 2_048
    """Models in all that one body is read as, one call after the other: each change is decided on as a whole. A
    thousand tasks that come one by one would be half a million."""
    inflated_bytes: int = 67_108_864
    """The compressed messages of one body, inflated."""
    unnamed_bytes: int = 4_194_304
    """Of those, what may come before a model is named: until then nobody has been authorised."""

    def inflater(self, encoding: bytes | None) -> Inflater:
        """For the compressed messages of one body. Raises Refusal: UNSUPPORTED_ENCODING."""
        return Inflater(encoding, self.inflated_bytes)


DEFAULT_LIMITS = ScanLimits()


Replaced = tuple[tuple[ModelRef, ...], bytes]
"""The models that a message names, as they were asked for, and the bytes that take the place of the fields that name
them, with their tags."""
Replace = Callable[[Sequence[tuple[int, bytes]], Chosen], Replaced]
"""All occurrences of the fields that name models in a message (tag and value), and what to ask for -> what takes their
place. Raises Refusal: MALFORMED_MESSAGE, or SCAN_LIMIT (fields)."""


class Naming(Protocol):
    """What has been read so far of the models that one message names.

    Every method may raise Refusal (MALFORMED_MESSAGE or SCAN_LIMIT).
    """

    def __init__(self, limits: ScanLimits, walker: FieldWalker) -> None:
        """`walker`: of the body that the message is part of."""

    def add(self, tag: int, value: bytes) -> None:
        """A field that names models occurred (`BodyKind.tags`), in the order of the wire."""

    def models(self) -> tuple[ModelRef, ...]:
        """The models as they would be if the message ended now; empty while none is named."""

    def finish(self) -> tuple[ModelRef, ...]:
        """The models of the message, which has ended."""


@dataclass(frozen=True, slots=True)
class BodyKind:
    """How the messages of a gRPC method name models: what `BodyScan` and `MessageRewriter` have to know of a wire
    surface."""

    verb: Verb
    naming: type[Naming]
    replace: Replace | None = None
    """Writes another model or version; None: no single version answers the method."""
    tags: tuple[int, ...] = (FIELD_1,)
    """Of the fields that name models, all length-delimited. Field 1 alone is scanned on the fast path."""
    is_unary: bool = False
    """Exactly one message: another one is refused."""
    limit: Literal["spec_bytes", "config_bytes"] = "spec_bytes"
    """Which of `ScanLimits` holds for all that a message says about its models."""
    first: int = field(init=False)
    """The tag that a message on the fast path begins with; -1: there is no fast path."""
    memo: dict[bytes, Call] = field(init=False, default_factory=dict, repr=False, compare=False)
    """Of `BodyScan`: the bytes of a field 1 that stands alone in its message -> the call."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", FIELD_1 if self.tags == (FIELD_1,) else -1)


def repeats(data: bytes, size: int, first: bytes, stop: int) -> bool:
    """Whether a whole body says what one said that a scan has read at once: that depends on the first field only, and
    on there being no other one with its number.

    Args:
        data: the body.
        size: its length.
        first: the first field of the other (`BodyScan.first_field`).
        stop: where that ended: five bytes and its length.
    """
    return (
        data.startswith(first, 5)
        and not data[0]
        and int.from_bytes(data[1:5], "big") + 5 == size
        and holds_only_others(data, stop, size)
    )


class BodyScan:
    """Reads the call out of one gRPC request body while the body passes.

    Attributes:
        call: what `feed` or `read_on` returned last; None until then.
        is_behind: see `surface.Scan`.
        is_inflating: the same.
    """

    __slots__ = (
        "_decided",
        "_encoding",
        "_kind",
        "_limits",
        "_memo",
        "_reading",
        "_slow",
        "call",
        "is_behind",
        "is_inflating",
    )

    def __init__(self, kind: BodyKind, encoding: bytes | None = None, limits: ScanLimits = DEFAULT_LIMITS) -> None:
        self.call: Call | None = None
        self._kind = kind
        self._memo = kind.memo
        self._encoding = encoding
        self._limits = limits
        self._slow: _Stream | None = None
        self._reading: Iterator[Call | None] | None = None  # not within _slow: a circle would outlive the request
        self._decided = 0  # models of the calls that were returned
        self.is_behind = False
        self.is_inflating = False

    def feed(self, data: bytes, end: bool) -> Call | None:
        """Bytes of the body, cut anywhere -> the call, if it became known or changed with them.

        A call that is returned replaces the one before: decide again before these bytes are forwarded. The
        call is complete at `end`; a body that names no model by then is refused.

        Raises:
            Refusal: MALFORMED_MESSAGE, BODY_TOO_LARGE, SCAN_LIMIT, UNSUPPORTED_ENCODING. Feed nothing more then.
        """
        slow = self._slow
        if slow is not None and len(data) < slow.ahead:
            slow.ahead -= len(data)  # within a field that is of no interest
            if not end:
                return None
            data = b""
        if slow is None:
            # Nearly every request: one small message in one piece, in which field 1 comes first and once. Then what it
            # names depends on the bytes of that field alone, which are remembered: 0.6 µs instead of 10.
            if self.call is None and len(data) > 7 and data[5] == self._kind.first and not data[0]:
                stop = 7 + data[6]
                whole = stop <= len(data) == 5 + int.from_bytes(data[1:5], "big")
                if whole and data[6] < 0x80 and holds_only_others(data, stop, len(data)):
                    occurrence = data[7:stop]
                    call = self._memo.get(occurrence) or self._learn(occurrence)
                    if call is not None:
                        self.call = call
                        return call
            elif not data and (self.call is not None or not end):
                return None
            self._slow = slow = _Stream(self._kind, self._encoding, self._limits, self.call)
        self._reading = slow.feed(data, end)
        return self.read_on()

    def first_field(self, data: bytes) -> bytes | None:
        """What of a whole body, the first thing that was fed, its call depends on: the first field of its message;
        None: on more than that. For `repeats`."""
        return data[5 : 7 + data[6]] if self.call is not None and self._slow is None else None

    def read_on(self) -> Call | None:
        """See `surface.Scan`. Raises as `feed`."""
        slow, reading = self._slow, self._reading
        if slow is None or reading is None:
            return None
        call = next(reading)
        self.is_behind = slow.is_behind
        if slow.inflater is not None:
            self.is_inflating = slow.inflater.is_inflating
        if not self.is_behind:
            self._reading = None  # it holds what was fed
        if call is None or call == self.call:
            return None
        self._decided += len(call.models)
        if self._decided > self._limits.decided_models:
            raise Refusal(
                Reason.SCAN_LIMIT,
                "The messages name models too often, one after the other: name them together, and first.",
                limit="decided_models",
            )
        self.call = call
        return call

    def _learn(self, occurrence: bytes) -> Call | None:
        """The call of a message with this field 1 and no other; None if that is not enough."""
        said = self._kind.naming(self._limits, FieldWalker())
        said.add(FIELD_1, occurrence)
        models = said.models()
        if not models:
            return None
        call = _intern(Call(self._kind.verb, models))
        if len(models) <= MEMO_MODELS:
            if len(self._memo) >= MEMO_ENTRIES:
                self._memo.clear()
            self._memo[occurrence] = call
        return call


class _Stream:
    """The messages of one body on the slow path."""

    __slots__ = (
        "_deframer",
        "_encoding",
        "_inflated",
        "_is_known",
        "_kind",
        "_limits",
        "_message",
        "_models",
        "_passing",
        "_past",
        "_unfinished",
        "_walker",
        "ahead",
        "inflater",
        "is_behind",
    )

    def __init__(self, kind: BodyKind, encoding: bytes | None, limits: ScanLimits, call: Call | None) -> None:
        """`call`: of a message that has already passed, if one has."""
        self._kind = kind
        self._encoding = encoding
        self._limits = limits
        self._deframer = Deframer()
        self.inflater: Inflater | None = None
        self._message: _Message | None = None
        self._past = int(call is not None)
        self._models = dict.fromkeys(call.models) if call is not None else {}
        """Of the messages that are complete."""
        self._unfinished: tuple[ModelRef, ...] = ()
        """Models of the message that is not, and of no other, as `feed` returned them last."""
        self._is_known = call is not None
        """`feed` has returned a call."""
        self._walker = FieldWalker(FREE_FIELDS)
        self._inflated = 0
        """Bytes that have been inflated."""
        self.ahead = 0
        """Of the next bytes so many but one need not be fed: whoever leaves them out takes them off."""
        self._passing = 0
        """What it was when something was fed last."""
        self.is_behind = False
        """What was fed has not been read to its end."""

    def feed(self, data: bytes, end: bool) -> Iterator[Call | None]:
        """Yields after each slice of `data` the call, if it may have changed. Raises as `BodyScan.feed`."""
        self.is_behind = True
        passed = self._passing - self.ahead
        if passed:
            assert self._message is not None
            self._message.passed(passed)
            self._deframer.passed(passed)
        self.ahead = self._passing = 0
        walker = self._walker
        walker.earn(passed + len(data))
        walked = walker.left
        known = len(self._models)
        is_named = False
        named = 0
        for part in self._deframer.parts(data):
            if isinstance(part, Misframed):
                raise malformed(part.reason)
            message = self._message
            if message is None:
                message = self._message = self._begin(part)
            for piece in message.pieces(part.data):
                for chunk in message.chunks(piece):
                    for tag, value in message.feed(chunk):
                        named += len(value) + FIELD_BYTES
                        if named > NAMED_BYTES:
                            yield None
                            named = len(value) + FIELD_BYTES
                        message.add(tag, value)
                        is_named = True
                    if walked - walker.left > WALKED_FIELDS:
                        yield None
                        walked = walker.left
                if part.compressed and self._is_slice(len(piece), is_named):
                    yield self._changed_call(known) if is_named else None
                    known = len(self._models)
                    is_named = False
            if part.end:
                self._message = None
                self._models.update(dict.fromkeys(message.finish()))
                if len(self._models) > self._limits.models:
                    raise too_many_models()
                is_named = True
        if end:
            if not self._deframer.is_idle:
                raise malformed("the body ends within a message")
            if not self._past:
                raise malformed("the body has no message")
        self.ahead = self._passing = self._message.ahead(self._deframer.ahead) if self._message is not None else 0
        self.is_behind = False
        yield self._changed_call(known) if is_named else None

    def _is_slice(self, inflated: int, is_named: bool) -> bool:
        """Whether the slice ends with a piece of so many bytes. One that names a model does: who may not call that one
        causes no more work."""
        before = self._inflated
        self._inflated += inflated
        if self._inflated > self._limits.unnamed_bytes and not is_named and not self._is_known:
            raise Refusal(
                Reason.SCAN_LIMIT,
                f"The compressed message does not name its model within {self._limits.unnamed_bytes} bytes: serialise "
                "model_spec first.",
                limit="scan_buffer_bytes",
            )
        if inflated < PIECE_BYTES:
            return False  # there is no more
        return is_named or before // SLICE_BYTES != self._inflated // SLICE_BYTES

    def _changed_call(self, known: int) -> Call | None:
        """The call, unless it is what `feed` returned last, which is seen without looking at all of its models.

        Args:
            known: models of complete messages, then.
        """
        unfinished: tuple[ModelRef, ...] = ()
        if self._message is not None:
            unfinished = tuple([model for model in self._message.models() if model not in self._models])
            if not unfinished and not self._models:
                return None
        if self._is_known and unfinished == self._unfinished and len(self._models) == known:
            return None
        self._is_known = True
        self._unfinished = unfinished
        return _intern(Call(self._kind.verb, (*self._models, *unfinished)))

    def _begin(self, part: MessagePart) -> _Message:
        if self._past and self._kind.is_unary:
            raise malformed("the method takes one message")
        self._past += 1
        self._walker.begin_message()
        if part.size > MESSAGE_BYTES:
            raise Refusal(
                Reason.BODY_TOO_LARGE, f"A message is longer than {MESSAGE_BYTES} bytes.", limit="message_bytes"
            )
        if part.compressed and self.inflater is None:
            self.inflater = self._limits.inflater(self._encoding)
        return _Message(self._kind, part, self.inflater if part.compressed else None, self._limits, self._walker)


class _Message:
    """One message while it passes."""

    __slots__ = ("_inflater", "_naming", "_scanner")

    def __init__(
        self, kind: BodyKind, part: MessagePart, inflater: Inflater | None, limits: ScanLimits, walker: FieldWalker
    ) -> None:
        self._naming = kind.naming(limits, walker)
        self._inflater = inflater
        limit: int = getattr(limits, kind.limit)
        size = part.size if inflater is None else MESSAGE_BYTES
        self._scanner = FieldScanner(kind.tags, size, limit, kind.limit, walker, limits.models)

    def pieces(self, data: bytes) -> Iterable[bytes]:
        """What a part of the message is to be fed as."""
        return (data,) if self._inflater is None else self._inflater.feed(data)

    def chunks(self, piece: bytes) -> Iterable[bytes]:
        """What is walked over at once of a piece."""
        size = len(piece)
        if size <= WALKED_BYTES or self._scanner.passes(size):
            return (piece,)
        return [piece[at : at + WALKED_BYTES] for at in range(0, size, WALKED_BYTES)]

    def feed(self, piece: bytes) -> list[tuple[int, bytes]]:
        """The fields that name models and are complete with this piece, to be added in order."""
        return self._scanner.feed(piece)

    def add(self, tag: int, value: bytes) -> None:
        self._naming.add(tag, value)

    def ahead(self, left: int) -> int:
        """How many of the next bytes need not be read, of `left` that are to come."""
        return min(self._scanner.ahead, left) if self._inflater is None else 0

    def passed(self, size: int) -> None:
        """So many of those have come, and were not fed."""
        self._scanner.passed(size)

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
