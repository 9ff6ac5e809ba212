"""The dependencies of the pipeline: protocols that other folders implement and the assembly passes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from meshproxy.proxy.exchange import Exchange, TraceContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.codec.events import Headers
    from meshproxy.identity.caller import Caller, Token
    from meshproxy.identity.tokens import KeysWanted
    from meshproxy.inference.call import Call
    from meshproxy.inference.surface import Signals
    from meshproxy.policy.decide import Permit
    from meshproxy.routing.failure import Failure
    from meshproxy.routing.retry import Skip
    from meshproxy.routing.routes import Route


class Verifies(Protocol):
    """Turns the `authorization` header into a token (`identity.tokens.TokenVerifier`)."""

    def verify(self, authorization: bytes, now: float) -> Token:
        """Raises Refusal, or `KeysWanted` when the issuer's keys must be fetched first."""


class Decides(Protocol):
    """Decides whether a caller may make a call (`policy.decide.Policy`)."""

    headers: frozenset[bytes]
    """Names of the headers that a decision may depend on."""

    def decide(self, caller: Caller, call: Call, remote: str, headers: Headers | None) -> Permit:
        """`headers`: of the request; None if they are not known. Raises Refusal."""

    def decide_partly(self, caller: Caller, call: Call, remote: str, headers: Headers | None) -> Permit | None:
        """A permit for a call that was refused, and of whose answer the caller may see a part."""

    def may_see(self, caller: Caller, call: Call, name: str, remote: str, headers: Headers | None) -> bool:
        """Whether that part has the version, or the signature, of this name."""


class FindsRoute(Protocol):
    """Finds the route of a call (`routing.routes.Routes`)."""

    has_cors: bool
    """A route says what browsers are told."""
    headers: frozenset[bytes]
    """Names of the headers that the choice of a route may depend on."""

    def match(self, call: Call, headers: Headers, caller: Caller) -> Route:
        """The first route that matches; the default route if none does."""

    def for_all(self, call: Call) -> Route:
        """The first route that matches and has no conditions."""


class FindsServer(Protocol):
    """Finds the ModelServer that an application selected (`routing.servers.Servers`)."""

    def find(self, authority: bytes, header: bytes | None, original: str) -> str | None:
        """Name of a `ModelServer`; empty if the header names an unknown one; None if nothing selects one."""


class Meter(Protocol):
    """Measures the arms of one rollout (`rollout.meter.Meter`)."""

    def wants_answer(self, now: float) -> bool:
        """Whether the answer of a call that begins now is to be read."""

    def ended(
        self,
        exchange: Exchange,
        is_candidate: bool,
        examples: int,
        size: int,
        read: Callable[[], Signals | None] | None,
    ) -> None:
        """A call of an arm is over. Never raises.

        Args:
            examples: of its batch; 0 if they were not counted.
            size: bytes of the answer's body; -1 if it was not whole.
            read: reads the answer; None: it was not kept.
        """

    def compared(self, agrees: bool) -> None:
        """The candidate's answer to a mirrored call of the stable version was compared."""


class Sampler(Protocol):
    """Chooses the calls whose answers are read, and reads them (`rollout.answer_sampler.AnswerSampler`)."""

    def wants(self, call: Call) -> bool:
        """Whether answers to such calls are read at all."""

    def is_due(self, now: float) -> bool:
        """One more of them is about to be forwarded: whether it is chosen. If so this is the answer until `begin`."""

    def begin(self) -> None:
        """The call that was chosen is being carried: `ended` is called once."""

    def ended(
        self, exchange: Exchange, is_whole: bool, answer: bytes | None, read: Callable[[bytes], Signals | None]
    ) -> None:
        """It is over. Never raises.

        Args:
            is_whole: the response was complete.
            answer: the body; None: it is too long.
            read: reads it.
        """


class Observer(Protocol):
    """Reads finished exchanges (`telemetry.observer`)."""

    def __call__(self, exchange: Exchange) -> None: ...


class Tracer(Protocol):
    """Continues a trace (`telemetry.trace`)."""

    is_recording: bool
    """Spans are exported: requests without a trace begin one, and each attempt has a span of its own."""

    reads_b3: bool
    """Where they are not, no trace begins beside one of Zipkin: it would decide about the sampling of that one."""

    def begin(self, b3: Headers) -> tuple[TraceContext, bytes]:
        """The context of a request without a valid `traceparent`, and that to forward. `b3`: its fields of that
        format, if they are read."""

    def attempt(self, trace: TraceContext) -> tuple[bytes, bytes]:
        """The id of an attempt's span, and the `traceparent` that names it."""

    def carry(self, parent: bytes, states: Sequence[bytes]) -> tuple[TraceContext, bytes] | None:
        """The context, and the `traceparent` to forward; None if `parent` is invalid. `parent` and `states`: the values
        of `traceparent` and `tracestate`."""

    def go_on(self, parent: bytes, states: Sequence[bytes]) -> tuple[TraceContext, bytes]:
        """The same, of a valid one."""


class RefreshKeys(Protocol):
    """Fetches what a verifier wants: an issuer's keys, or the word of AWS STS."""

    def __call__(self, wanted: KeysWanted, then: Callable[[], None]) -> None:
        """Call `then` once when the fetch has ended, with or without success."""


class Traffic(Protocol):
    """Counts what happens to requests between their head and their answer."""

    def retried(self, exchange: Exchange, failure: Failure) -> None:
        """An attempt failed, and another one is made."""

    def retry_skipped(self, exchange: Exchange, failure: Failure, skip: Skip) -> None:
        """An attempt failed, and no other one is made, because of `skip`."""

    def hedged(self, exchange: Exchange) -> None:
        """A second attempt is made beside the first."""

    def fell_back(self, exchange: Exchange) -> None:
        """The route's fallback server is tried."""

    def mirrored(self, direction: str, route: str, result: str) -> None:
        """A mirrored request ended (`proxy.mirror.RESULTS`)."""
