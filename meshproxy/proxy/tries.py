"""All tries of one request: another one when one fails, a second one beside it when it takes long, and an end to that.

Nothing is tried again once a byte of an answer has gone to the client. Until then what was sent of the request is kept,
within a limit, so that it can be sent again; `RetryRule` says what is worth another try, and `RetryBudget` how many of
those all requests of a route may have together.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from meshproxy.proxy.attempt import Attempt
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.retry import Skip
from meshproxy.upstream.cluster import NoEndpoint

if TYPE_CHECKING:
    import asyncio

    from meshproxy.proxy.passage import Passage
    from meshproxy.routing.failure import Failure
    from meshproxy.routing.routes import Route
    from meshproxy.transport.stream import Upstream
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.latency import Latency


class Tries:
    """The tries of one request. `upstream` is the stream that takes its body; None while there is none."""

    __slots__ = (
        "_cluster",
        "_fallback",
        "_has_sent",
        "_hedge",
        "_is_committed",
        "_kept_bytes",
        "_key",
        "_latency",
        "_model",
        "_passage",
        "_pieces",
        "_route",
        "_timer",
        "_tried",
        "count",
        "current",
        "upstream",
    )

    def __init__(
        self, passage: Passage, route: Route, cluster: Cluster, fallback: Cluster | None, model: str, key: int | None
    ) -> None:
        """
        Args:
            fallback: whose endpoints are tried when none of `cluster` can be called.
            model: what breakers and latencies go by.
            key: what endpoints are chosen by, if that is to be always the same.
        """
        self._passage = passage
        self._route = route
        self._cluster = cluster
        self._fallback = fallback
        self._model = model
        self._key = key
        self._latency: Latency | None = None
        """How long such calls take, where it matters: of those that run a model, and have a deadline."""
        self.count = 0
        self.current: Attempt | None = None
        self._hedge: Attempt | None = None
        """The second one, made while the first had not answered."""
        self.upstream: Upstream | None = None
        self._tried: tuple[Endpoint, ...] = ()
        self._pieces: list[tuple[bytes, bool]] | None = [] if route.retry.attempts > 1 else None
        """What was sent of the body, kept for another try; None: it is not, or was too much."""
        self._kept_bytes = 0
        self._has_sent = False
        """Some of the body."""
        self._is_committed = False
        """An answer is on its way to the client."""
        self._timer: asyncio.TimerHandle | None = None
        """Until the next try, or until a second one is made beside the first."""

    def begin(self) -> None:
        """Make the first try. Raises Refusal."""
        passage = self._passage
        now = passage.pipeline.now()
        call = passage.call
        if passage.due and call is not None and call.verb.is_inference:
            self._latency = latency = self._cluster.latency(self._model)
            if latency.should_refuse(passage.due - now, now):
                passage.flag("UT")
                raise Refusal(
                    Reason.DEADLINE_EXCEEDED,
                    "The time that is left is less than this model usually takes: allow more, or ask again later.",
                    limit="deadline",
                )
        self._route.budget.deposit(now)
        self._try(now)

    def out_of_time(self) -> None:
        """The request's deadline has passed."""
        if self.current is not None and not self._is_committed:
            self.current.out_of_time()

    def answered(self, seconds: float, now: float) -> None:
        """A try was answered so long after it was sent."""
        if self._latency is not None:
            self._latency.add(seconds, now)

    def _try(self, now: float) -> None:
        passage = self._passage
        try:
            endpoint = self._cluster.pick(passage.is_grpc, self._model, now, self._key, self._tried)
        except NoEndpoint as none:
            if self._fall_back():
                return
            passage.flag("UH")
            passage.refuse(
                Refusal(
                    Reason.NO_UPSTREAM,
                    f"No model server can be called: {none}.",
                    retry_after=max(1, ceil(none.retry_after)),
                )
            )
            return
        self.count += 1
        passage.attempts = self.count
        attempt = self.current = Attempt(self, passage, endpoint, self._model, now)
        attempt.start()

    def acquired(self, attempt: Attempt, stream: Upstream) -> None:
        """A stream is at hand: the head goes out, and what of the body was sent before. Raises HeadRefused."""
        passage = self._passage
        attempt.sent = now = passage.pipeline.now()
        route = self._route
        passage.send_request(stream, now)
        if route.try_timeout is not None:
            attempt.timer = passage.pipeline.loop.call_at(now + route.try_timeout, attempt.time_out)
        takes_more = True
        for data, end in self._pieces or ():
            takes_more = stream.send_data(data, end)
        attempt.takes_more = takes_more
        if attempt is not self.current:
            return  # made beside another: the whole of the body was kept
        self.upstream = stream
        if self.count == 1 and route.retry.hedge_after is not None:
            self._timer = passage.pipeline.loop.call_at(now + route.retry.hedge_after, self._hedge_now)
        passage.request_sent(takes_more)

    def send(self, data: bytes, end: bool) -> bool:
        """Send a piece of the body on, and keep it. Returns as `stream.Stream.send_data`."""
        assert self.upstream is not None
        self._has_sent = True
        pieces = self._pieces
        if pieces is not None and (data or end):
            pipeline = self._passage.pipeline
            size = len(data)
            if (
                self._kept_bytes + size > self._route.retry.replay_bytes
                or pipeline.kept_bytes + size > pipeline.snapshot.limits.kept_total
            ):
                self._forget_pieces()
            else:
                self._kept_bytes += size
                pipeline.kept_bytes += size
                pieces.append((data, end))
        takes_more = self.upstream.send_data(data, end)
        if not takes_more and self.current is not None:
            self.current.takes_more = False
        return takes_more

    def _forget_pieces(self) -> None:
        self._passage.pipeline.kept_bytes -= self._kept_bytes
        self._kept_bytes = 0
        self._pieces = None

    # How they end

    def commit(self, attempt: Attempt) -> None:
        """`attempt` has the answer: the other one is not wanted any more."""
        self._is_committed = True
        if self._timer is not None:
            self._stop_timer()
        other = self._other(attempt) if self._hedge is not None else None
        self.current, self._hedge = attempt, None
        if other is not None:
            other.cancel()
            self.upstream = attempt.upstream
        if self.count > 1 and attempt.upstream is not None:
            self._passage.upstream = attempt.upstream.address
        if self._pieces is not None:
            self._forget_pieces()

    def is_committed_to(self, attempt: Attempt) -> bool:
        """The answer of `attempt` is on its way to the client."""
        return self._is_committed and self.current is attempt

    def retries(self, attempt: Attempt, failure: Failure) -> bool:
        """`attempt` was answered with an error, and has reported it. True: it is not to be passed on, something better
        may come."""
        other = self._other(attempt)
        if other is None and not self.may_retry(failure):
            return False
        attempt.cancel()
        self._go_on(attempt, other, failure)
        return True

    def failed(self, attempt: Attempt, failure: Failure, refusal: Refusal, flags: str) -> None:
        """`attempt` came to nothing: try again, or answer with `refusal`."""
        passage = self._passage
        attempt.cancel()
        other = self._other(attempt)
        if other is None and not self.may_retry(failure):
            if failure.is_unsent and self._fall_back():
                return
            if flags:
                passage.flag(flags)
            passage.refuse(refusal)
            return
        self._go_on(attempt, other, failure)

    def _other(self, attempt: Attempt) -> Attempt | None:
        """The one that is under way beside `attempt`."""
        other = self._hedge if attempt is self.current else self.current
        return other if other is not None and not other.is_over else None

    def may_retry(self, failure: Failure) -> bool:
        """Whether the call is tried again; counted, also if it is not."""
        passage = self._passage
        skip = self._why_not(failure)
        if skip is not None:
            if self._route.retry.attempts > 1 and skip is not Skip.REASON:
                passage.pipeline.traffic.retry_skipped(passage, failure, skip)
            return False
        passage.pipeline.traffic.retried(passage, failure)
        return True

    def _why_not(self, failure: Failure) -> Skip | None:
        passage, rule = self._passage, self._route.retry
        call = passage.call
        skip = rule.skip(failure, call.verb if call is not None else None, self.count)
        if skip is not None:
            return skip
        if self._is_committed:
            return Skip.ANSWERED
        if self._pieces is None and self._has_sent:
            return Skip.BODY
        now = passage.pipeline.now()
        if passage.due and now >= passage.due:
            return Skip.DEADLINE
        if self._fallback is None and not self._cluster.allows(passage.is_grpc, self._model, now):
            return Skip.NO_ENDPOINT
        return None if self._route.budget.withdraw(now) else Skip.BUDGET

    def _go_on(self, attempt: Attempt, other: Attempt | None, failure: Failure) -> None:
        self._tried = (*self._tried, attempt.endpoint)
        if other is not None:
            self.current, self._hedge = other, None
            self.upstream = other.upstream
            return
        self.current = self._hedge = self.upstream = None
        if self._timer is not None:
            self._stop_timer()
        pipeline = self._passage.pipeline
        rule = self._route.retry
        wait = rule.wait(self.count, pipeline.draw)
        now = pipeline.now()
        if not wait and not self._cluster.allows(self._passage.is_grpc, self._model, now, self._tried):
            wait = rule.backoff * pipeline.draw()  # the same one again: give it a moment
        if wait:
            self._timer = pipeline.loop.call_at(now + wait, self._try_again)
        else:
            self._try(now)

    def _try_again(self) -> None:
        self._timer = None
        passage = self._passage
        try:
            self._try(passage.pipeline.now())
        except Exception as error:
            passage.fail(error)

    def _fall_back(self) -> bool:
        """No endpoint of the server can be called: try the route's other server. Only once, and before anything of the
        body was sent that is not kept."""
        fallback, self._fallback = self._fallback, None
        if fallback is None or (self._pieces is None and self._has_sent):
            return False
        self._cluster = fallback
        if self._latency is not None:
            self._latency = fallback.latency(self._model)
        self._tried = ()
        pipeline = self._passage.pipeline
        pipeline.traffic.fell_back(self._passage)
        self._try(pipeline.now())
        return True

    def _hedge_now(self) -> None:
        """The first try takes long: make the same call elsewhere, and take whichever answers first."""
        self._timer = None
        passage, current = self._passage, self.current
        if self._is_committed or current is None or current.is_over or self._pieces is None or passage.is_over:
            return
        if not passage.request_ended or self._hedge is not None:
            return
        now = passage.pipeline.now()
        call = passage.call
        if call is None or call.verb not in self._route.retry.verbs:
            return
        tried = (*self._tried, current.endpoint)
        cluster = self._cluster
        if not cluster.allows(passage.is_grpc, self._model, now, tried) or not self._route.budget.withdraw(now):
            return
        try:
            endpoint = cluster.pick(passage.is_grpc, self._model, now, self._key, tried)
            self.count += 1
            passage.attempts = self.count
            passage.pipeline.traffic.hedged(passage)
            self._hedge = Attempt(self, passage, endpoint, self._model, now)
            self._hedge.start()
        except Exception as error:
            passage.fail(error)

    def _stop_timer(self) -> None:
        assert self._timer is not None
        self._timer.cancel()
        self._timer = None

    def finish(self, is_whole: bool) -> None:
        """The exchange is over. `is_whole`: the request has been sent to its end."""
        if self._timer is not None:
            self._stop_timer()
        attempt, hedge = self.current, self._hedge
        # What refers to each other in a circle would have to wait for the garbage collector.
        self.current = self._hedge = self.upstream = None
        if hedge is not None:
            hedge.cancel()
        if attempt is not None and not (attempt.is_over and is_whole and attempt.takes_more):
            attempt.cancel()
        if self._pieces is not None:
            self._forget_pieces()

    def cancel(self) -> None:
        """Nobody waits for an answer any more."""
        self.finish(is_whole=False)
