"""Where the time of an exchange went: one number for each part of its way, and together they are its duration.

    part       begins                          ends
    read       the part of the body that names the model was wanted, and was there; then, once the request was on its
               way, until the rest of the body was there
    decide     `started`                       `decided`, less what was read meanwhile
    queue      `decided`                       `dequeued`
    retry      then                            `retried`: earlier attempts, and the pauses after them
    connect    then                            `connected`
    upstream   then, and the body was read     `first_byte`
    body       then                            the last attempt ended: the answer was there
    write      then, or `refused`              `finished`

A part that was under way when the exchange was refused, or ended, lasts until then. Parts that were never reached are
None; `queue` and `retry` are 0.0 where there was nothing to wait for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from meshproxy.proxy.exchange import Exchange


class TimeSplit(NamedTuple):
    """The parts, in seconds."""

    read: float
    """The client: it had not sent what was needed of its request."""
    decide: float
    """The sidecar: caller, model, policy and route, and fetching an issuer's keys."""
    queue: float | None = None
    """The model's concurrency limit, or an injected delay."""
    retry: float | None = None
    """Attempts before the one that was answered, or was the last."""
    connect: float | None = None
    """An endpoint and a connection to it: the pool, TCP, TLS."""
    upstream: float | None = None
    """The model server, and the network to it: from the whole request to the head of the response."""
    body: float | None = None
    """The model server again: the rest of the response. A client that reads slowly slows this down, too."""
    write: float | None = None
    """The rest of the response, or all of a refusal, to the client's connection."""


Parts = tuple[float, float, float | None, float | None, float | None, float | None, float | None, float | None]
"""The same without names: to make one of these takes half of the time."""


def split_time(exchange: Exchange) -> TimeSplit:
    """The parts of an exchange that has ended. Pure."""
    parts = split_answered(exchange)
    return TimeSplit(*parts) if parts is not None else split_time_so_far(exchange, exchange.finished)


def split_answered(exchange: Exchange) -> Parts | None:
    """The parts of an exchange that was answered at once, which takes 0.3 us; None: it was not. Pure."""
    first_byte, connected, answered = exchange.first_byte, exchange.connected, exchange.ended
    if not first_byte or not connected or exchange.dequeued or exchange.retried or not answered:
        return None
    started, reading, decided, received = exchange.started, exchange.reading, exchange.decided, exchange.received
    read = exchange.read - reading if reading else 0.0
    decide, connect, sent = decided - started - read, connected - decided, connected
    if received > connected:
        sent = received if received < first_byte else first_byte  # noqa: FURB136 (`min` takes 0.1 us)
        read += sent - connected
    end = exchange.finished
    return read, decide, 0.0, 0.0, connect, first_byte - sent, answered - first_byte, end - answered


def split_time_so_far(exchange: Exchange, now: float) -> TimeSplit:
    """The parts of any exchange, as far as it has come by `now`. Pure."""
    started, first_byte, refused, reading = exchange.started, exchange.first_byte, exchange.refused, exchange.reading
    # Where the way to the model server ended, if it did not come to an answer.
    stop = first_byte or refused or now
    read = (exchange.read or stop) - reading if reading else 0.0
    decided, connected, received = exchange.decided, exchange.connected, exchange.received
    if not decided or (first_byte and not connected):  # refused, or the sidecar answered
        write = now - stop if first_byte or refused else None
        return TimeSplit(read, stop - started - read, write=write)
    decide, begun, queue, retry = decided - started - read, decided, 0.0, 0.0
    if exchange.dequeued:
        begun = min(exchange.dequeued, stop)
        queue = begun - decided
    if exchange.retried:
        retry = exchange.retried - begun
        begun = exchange.retried
    write = now - refused if refused else None
    if connected < begun:
        return TimeSplit(read, decide, queue, retry, stop - begun, write=write)
    connect, sent = connected - begun, connected
    if received > connected:
        sent = min(received, stop)
        read += sent - connected
    if not first_byte:
        return TimeSplit(read, decide, queue, retry, connect, stop - sent, write=write)
    answered = (exchange.ended or now) if exchange.finished else now
    return TimeSplit(read, decide, queue, retry, connect, first_byte - sent, answered - first_byte, now - answered)
