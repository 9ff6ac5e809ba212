"""Rate limits of a route: token buckets that may go into debt.

Requests are counted before they are admitted, so their bucket never goes below zero. Bytes and examples are known only
while they arrive: a call is admitted while these buckets are not in debt, its cost is charged afterwards, and later
calls are refused until the debt is repaid.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import TypeAlias

import msgspec

from meshproxy.config.routes import PerWord

MAX_BUCKETS = 8_192
"""Keys (callers and models) of one limiter: about 5 MB when full, with all three limits set."""
LOOKED_AT = 16
"""Entries that are examined for eviction when a limiter is full and a new key comes."""
ROUNDING = 1e-6
"""Seconds by which a call may be early: clock differences are not exact, and a client that waited for `retry-after`
must not be refused again. What is taken early is missing afterwards, so it does not add up."""


class Bucket:
    """A token bucket that fills with `rate` a second up to `burst`. A new one is full.

    Stored as the time at which it will be full again: nothing is written while nothing is taken, and a refusal changes
    nothing.
    """

    __slots__ = ("_per_unit", "_span", "full_at")

    def __init__(self, rate: float, burst: float) -> None:
        """
        Args:
            rate: units a second, above zero.
            burst: units that a full bucket holds.
        """
        self._per_unit = 1.0 / rate
        self._span = burst / rate
        self.full_at = -inf
        """Monotonic seconds; in the past if it is full."""

    def take(self, amount: float, now: float) -> float:
        """Take `amount` and return 0.0, or take nothing and return the seconds until it would be available. More than
        `burst` never is. Costs 0.07 us."""
        full_at = self.full_at
        if full_at < now:
            full_at = now
        full_at += amount * self._per_unit
        wait = full_at - now - self._span
        if wait > ROUNDING:
            return wait
        self.full_at = full_at
        return 0.0

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `take` would succeed, 0.0 if now. With `amount` 0: until the debt is repaid."""
        full_at = self.full_at
        if full_at < now:
            full_at = now
        wait = full_at + amount * self._per_unit - now - self._span
        return wait if wait > ROUNDING else 0.0

    def charge(self, amount: float, now: float) -> None:
        """Take `amount` even if the bucket goes into debt."""
        self.full_at = max(now, self.full_at) + amount * self._per_unit

    def left(self, now: float) -> float:
        """Available units; negative: the debt."""
        return (self._span - max(0.0, self.full_at - now)) / self._per_unit


class Denied(msgspec.Struct, frozen=True):
    """A call is refused for now."""

    retry_after: float
    """Seconds after which it would be admitted, if no other call takes anything in the meantime."""
    what: str
    """`requests`, `bytes` or `examples`: the limit that takes longest."""


class _Account:
    """The buckets of one key."""

    __slots__ = ("bytes", "examples", "requests")

    def __init__(self, requests: Bucket | None, size: Bucket | None, examples: Bucket | None) -> None:
        self.requests = requests
        self.bytes = size
        self.examples = examples

    def full_at(self) -> float:
        return max(bucket.full_at for bucket in (self.requests, self.bytes, self.examples) if bucket is not None)


_Key: TypeAlias = str | tuple[str, str]


class RateLimiter:
    """One `rateLimits` entry of a route: buckets for each model, or for each caller of each model.

    The number of keys is bounded by `MAX_BUCKETS`. Evicting a key whose buckets are full loses nothing, so those go
    first; otherwise the one nearest to being full goes, among the few oldest. A caller with thousands of identities can
    have its debts evicted, but could as well use each identity once.
    """

    __slots__ = ("_accounts", "_burst_seconds", "_bytes", "_examples", "_is_per_model", "_requests")

    def __init__(
        self,
        per: PerWord,
        requests: float | None,
        bytes: float | None,  # noqa: A002  (the word of the document)
        examples: float | None,
        burst_seconds: float,
    ) -> None:
        """
        Args:
            per: what shares a bucket: all calls of a model, or those of one caller of a model.
            requests: calls a second; None: unlimited. The burst is one call at least, however small the rate.
            bytes: bytes of request bodies a second.
            examples: rows of batches a second.
            burst_seconds: the burst, in seconds of the rate.
        """
        self._is_per_model = per == "model"
        self._requests = requests
        self._bytes = bytes
        self._examples = examples
        self._burst_seconds = burst_seconds
        self._accounts: OrderedDict[_Key, _Account] = OrderedDict()

    def __len__(self) -> int:
        """The number of keys."""
        return len(self._accounts)

    def admit(self, model: str, caller_key: str, now: float) -> Denied | None:
        """Count a call, or refuse it without counting it. Costs 0.15 us with a limit of requests, 0.35 us with all
        three, 11 us for a new key when the limiter is full."""
        key: _Key = model if self._is_per_model else (caller_key, model)
        account = self._accounts.get(key)
        if account is None:
            account = self._open(key, now)
        size = account.bytes
        examples = account.examples
        if (size is not None and size.wait(0.0, now)) or (examples is not None and examples.wait(0.0, now)):
            return _denied(account, now)
        requests = account.requests
        if requests is not None and requests.take(1.0, now):
            return _denied(account, now)
        return None

    def charge(self, model: str, caller_key: str, bytes: float, examples: float, now: float) -> None:  # noqa: A002
        """The cost of an admitted call; may be called several times for one call, as its body arrives."""
        key: _Key = model if self._is_per_model else (caller_key, model)
        account = self._accounts.get(key)
        if account is None:
            account = self._open(key, now)
        if account.bytes is not None:
            account.bytes.charge(bytes, now)
        if account.examples is not None:
            account.examples.charge(examples, now)

    def _open(self, key: _Key, now: float) -> _Account:
        if len(self._accounts) >= MAX_BUCKETS:
            self._evict(now)
        account = _Account(
            self._bucket(self._requests, 1.0), self._bucket(self._bytes, 0.0), self._bucket(self._examples, 0.0)
        )
        self._accounts[key] = account
        return account

    def _bucket(self, rate: float | None, least: float) -> Bucket | None:
        return None if rate is None else Bucket(rate, max(least, rate * self._burst_seconds))

    def _evict(self, now: float) -> None:
        """Evict one key, and those of the examined ones that are full.

        A few are examined each time, in turn: examining all took a millisecond, and a caller with a new key for each
        call would make every call pay for it.
        """
        accounts = self._accounts
        key, account = next(iter(accounts.items()))
        best, best_full_at = key, account.full_at()
        for _ in range(min(LOOKED_AT, len(accounts))):
            key, account = next(iter(accounts.items()))
            full_at = account.full_at()
            if full_at <= now:
                del accounts[key]
                continue
            accounts.move_to_end(key)
            if full_at < best_full_at:
                best, best_full_at = key, full_at
        if len(accounts) >= MAX_BUCKETS:
            del accounts[best]


def _denied(account: _Account, now: float) -> Denied:
    waits = [
        (bucket.wait(amount, now), what)
        for bucket, amount, what in (
            (account.requests, 1.0, "requests"),
            (account.bytes, 0.0, "bytes"),
            (account.examples, 0.0, "examples"),
        )
        if bucket is not None
    ]
    return Denied(*max(waits))
