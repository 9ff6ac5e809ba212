"""One short request of our own over a pool, and its whole answer: what health checks ask with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from meshproxy.codec.events import RequestHead
from meshproxy.codec.grpc import decode_message, format_timeout
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.stream import HeadRefused
from meshproxy.upstream.pool import PoolFull

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers, ResponseHead
    from meshproxy.transport.connector import ConnectError
    from meshproxy.transport.stream import Upstream
    from meshproxy.upstream.pool import Taker

ANSWER_BYTES = 65_536
"""The longest body that is read: a status has a few hundred."""
SHOWN = 200
"""Characters of a server's own words that are repeated."""

_AGENT = (b"user-agent", b"meshproxy")


class Unanswered(Exception):
    """No answer came, or none that can be read. The text says why."""


class NotAsked(Exception):
    """Our own calls take up every connection: nothing was learned."""


class Declined(Exception):
    """The server answered that it will not. The text says what.

    Attributes:
        status: of gRPC; None if that is not what it answered in.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Lender(Protocol):
    """What is used of a pool."""

    @property
    def address(self) -> str:
        """Of the server."""

    def acquire(self, taker: Taker) -> None:
        """Serve `taker` now or later."""

    def withdraw(self, taker: Taker) -> None:
        """`taker` waits no longer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    fields: Headers
    """Of the head, then those behind the body."""
    body: bytes


async def get(lender: Lender, target: bytes, timeout: float) -> Answer:
    """GET over whichever version the pool speaks. Raises Unanswered or NotAsked."""
    head = RequestHead(0, b"GET", _authority(lender), target, (_AGENT, (b"accept", b"*/*")), end=True)
    return await _ask(lender, head, b"", timeout)


async def call(lender: Lender, path: bytes, body: bytes, timeout: float) -> bytes:
    """A unary gRPC call: the body of its answer, framed. The server is told when we will not wait any longer.

    Raises:
        Unanswered, NotAsked: there was no answer.
        Declined: it has another status than OK.
    """
    fields = (_AGENT, (b"content-type", b"application/grpc"), (b"grpc-timeout", format_timeout(timeout)))
    head = RequestHead(0, b"POST", _authority(lender), path, fields, end=False)
    answer = await _ask(lender, head, body, timeout)
    if answer.status != 200:
        raise Declined(f"HTTP status {answer.status}")
    told = dict(answer.fields)
    status = told.get(b"grpc-status", b"")
    if status != b"0":
        known = status.decode() if status.isdigit() else ""
        code = int(known) if known else None
        name = GrpcStatus(int(known)).name if known and int(known[:3]) in _STATUSES else known or "missing"
        words = decode_message(told.get(b"grpc-message", b""))[:SHOWN]
        raise Declined(f"gRPC status {name}" + (f": {words}" if words else ""), code)
    return answer.body


_STATUSES = frozenset(GrpcStatus)


def _authority(lender: Lender) -> bytes:
    """A UNIX socket has none of its own."""
    return b"localhost" if lender.address.startswith("/") else lender.address.encode()


async def _ask(lender: Lender, head: RequestHead, body: bytes, timeout: float) -> Answer:
    outcome: asyncio.Future[Answer | Exception] = asyncio.get_running_loop().create_future()
    probe = _Probe(head, body, outcome)
    try:
        async with asyncio.timeout(timeout):
            lender.acquire(probe)
            answer = await outcome
    except TimeoutError:
        did = "answer" if probe.stream is not None else "take the question"
        raise Unanswered(f"{lender.address} did not {did} within {timeout:g} s") from None
    finally:
        if not outcome.done() or outcome.cancelled():
            lender.withdraw(probe)
            probe.give_up()
    if isinstance(answer, Exception):
        raise answer
    return answer


class _Probe:
    """Takes a stream, sends a request, reads the answer (`pool.Taker`, `stream.ResponseSink`)."""

    __slots__ = ("_body", "_fields", "_head", "_is_held", "_outcome", "_pieces", "_size", "_status", "stream")

    def __init__(self, head: RequestHead, body: bytes, outcome: asyncio.Future[Answer | Exception]) -> None:
        self._head = head
        self._body = body
        self._outcome = outcome
        """A result either way: an exception that nobody is left to hear would be logged."""
        self.stream: Upstream | None = None
        self._status = 0
        self._fields: Headers = ()
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_held = False
        """The server did not take the whole question at once."""

    def acquired(self, stream: Upstream) -> None:
        """A stream is at hand."""
        self.stream = stream
        stream.sink = self
        try:
            stream.send_request(self._head)
            self._is_held = bool(self._body) and not stream.send_data(self._body, True)
        except HeadRefused as error:  # nothing was sent
            self._end(Unanswered(f"{stream.address} cannot be asked: {error}"))

    def crashed(self, error: Exception) -> None:
        """`acquired` raised."""
        self._end(error)
        self.give_up()

    def acquire_failed(self, error: ConnectError) -> None:
        """There is no connection."""
        self._end(NotAsked(str(error)) if isinstance(error, PoolFull) else Unanswered(str(error)))

    def head_received(self, head: ResponseHead) -> None:
        """The server answers."""
        if head.status >= 200:
            self._status = head.status
            self._fields = head.headers
            if head.end:
                self._finish()

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        """A piece of the answer came."""
        self._pieces.append(data)
        self._size += len(data)
        stream = self.stream
        if self._size > ANSWER_BYTES:
            self._end(Unanswered(f"the answer is longer than {ANSWER_BYTES} bytes"))
            if not end:
                self.give_up()
        elif end:
            self._finish()
        elif stream is not None:
            stream.credit(flow)

    def trailers_received(self, headers: Headers) -> None:
        """The answer ended with fields."""
        self._fields += headers
        self._finish()

    def reset_received(self, code: int, reason: str) -> None:
        """The answer broke off."""
        self._end(Unanswered(f"the answer broke off: {reason}"))

    def drained(self) -> None:
        """All of the question is sent."""
        self._is_held = False

    def give_up(self) -> None:
        """Nobody waits for the rest."""
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.reset(ErrorCode.CANCEL)

    def _finish(self) -> None:
        if self._is_held and self.stream is not None:
            self.stream.stop_sending()
        self._end(Answer(self._status, self._fields, b"".join(self._pieces)))

    def _end(self, outcome: Answer | Exception) -> None:
        if not self._outcome.done():
            self._outcome.set_result(outcome)
