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


def split_time(exchange: Exchange, now: float = 0.0) -> TimeSplit:
    """The parts of an exchange that has ended, or of one that has come so far by `now`. Pure."""
    started, first_byte, refused = exchange.started, exchange.first_byte, exchange.refused
    end = exchange.finished or now
    # Where the way to the model server ended, if it did not come to an answer.
    stop = first_byte or refused or end
    read = 0.0
    if exchange.reading:
        read = (exchange.read or stop) - exchange.reading
    decided, connected = exchange.decided, exchange.connected
    if not decided or (first_byte and not connected):  # refused, or the sidecar answered
        write = end - stop if first_byte or refused else None
        return TimeSplit(read, stop - started - read, write=write)
    dequeued, retried, received = exchange.dequeued, exchange.retried, exchange.received
    decide = decided - started - read
    queue = retry = 0.0
    begun = decided
    if dequeued:
        begun = min(dequeued, stop)
        queue = begun - decided
    if retried:
        retry = retried - begun
        begun = retried
    if connected < begun:
        return TimeSplit(read, decide, queue, retry, stop - begun, write=end - refused if refused else None)
    connect = connected - begun
    if received > connected:
        sent = min(received, stop)
        read += sent - connected
    else:
        sent = connected
    if not first_byte:
        return TimeSplit(read, decide, queue, retry, connect, stop - sent, write=end - refused if refused else None)
    attempts = exchange.attempts
    answered = attempts[-1].ended if attempts else end
    parts = read, decide, queue, retry, connect, first_byte - sent, answered - first_byte, end - answered
    return tuple.__new__(TimeSplit, parts)  # what its own `__new__` does, without that call
