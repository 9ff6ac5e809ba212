"""The keys of one issuer over time: when they are fetched again, what failure and rotation do to them.

    never had any --take--> fresh --(refresh time)--> stale but used --take--> fresh
         |                    ^                            |
         +--fail (back-off)   +----------- take -----------+--fail (back-off): used on, for as long as it lasts

Keys that were good once stay in use until the issuer publishes a set without them: an issuer that is down for a day
must not take its users down with it. A token with an unknown `kid` may cause one extra fetch, because that
is what a rotation looks like; not again within the cool-down, and not while the issuer does not answer, or strangers'
tokens would hammer it and pile up here.

Pure state: `sidecar/key_refresher.py` does what it says. Times are seconds since the epoch; a clock that jumps only
moves one refresh.
"""

from __future__ import annotations

from meshproxy.identity.jwk import ALGORITHMS, Key, KeySet, KeySetError, read_key_set

REFRESH = 300.0
COOL_DOWN = 30.0
BACK_OFF = (1.0, 60.0)
"""The first wait after a failure, doubled with each further one, and the longest."""


class IssuerKeys:
    """The key set of one issuer. Lives as long as the issuer is configured, across reloads of other things."""

    __slots__ = (
        "_cool_down",
        "_forced_at",
        "_next",
        "_refresh",
        "algorithms",
        "failures",
        "fetched_at",
        "is_refreshing",
        "issuer",
        "keys",
        "problem",
    )

    def __init__(
        self,
        issuer: str,
        algorithms: frozenset[str],
        *,
        refresh: float | None = REFRESH,
        cool_down: float = COOL_DOWN,
    ) -> None:
        """Begin without keys.

        Args:
            issuer: the name in `MeshConfig`.
            algorithms: what the issuer may sign with, of `jwk.ALGORITHMS`; anything else is a ValueError.
            refresh: seconds between two fetches. None: the keys are given once and never fetched.
            cool_down: seconds between two fetches that unknown keys ask for.
        """
        if not algorithms or not algorithms <= ALGORITHMS:
            raise ValueError(f"issuer {issuer}: algorithms must be some of {', '.join(sorted(ALGORITHMS))}")
        self.issuer = issuer
        self.algorithms = algorithms
        self.keys: KeySet | None = None
        self.fetched_at: float | None = None
        """When the keys in use came."""
        self.problem: str | None = None
        """Why the last attempt failed; None after a success."""
        self.failures = 0
        """In a row."""
        self.is_refreshing = False
        self._refresh = refresh
        self._cool_down = cool_down
        self._forced_at: float | None = None
        self._next: float | None = None

    # Questions

    @property
    def has_keys(self) -> bool:
        """Tokens can be verified. Readiness of the sidecar depends on it."""
        return self.keys is not None

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key that a token means, if it is known."""
        return None if self.keys is None else self.keys.find(kid, algorithm)

    def may_ask(self, now: float) -> bool:
        """Whether an unknown `kid` is worth waiting for a refresh: one is in progress, or another is allowed."""
        if self._refresh is None:
            return False
        if self.is_refreshing:
            return True
        return not self.failures and (self._forced_at is None or abs(now - self._forced_at) >= self._cool_down)

    def wait(self, now: float) -> float:
        """Seconds until the next refresh is due; 0 at once. At most a whole interval, whatever the clock did."""
        if self._next is None:
            return 0.0
        longest = max(self._refresh or 0.0, BACK_OFF[1]) * 1.1
        return min(max(0.0, self._next - now), longest)

    # What happened

    def begin(self, now: float, *, is_forced: bool = False) -> None:
        """A refresh begins; `take`, `fail` or `abandon` must follow."""
        self.is_refreshing = True
        if is_forced:
            self._forced_at = now

    def take(self, document: bytes, now: float, jitter: float) -> None:
        """A document came. A broken one counts as a failure and changes no key.

        Args:
            document: a JWK set.
            now: seconds since the epoch.
            jitter: 0 to 1, drawn each time, so that a fleet does not fetch simultaneously.
        """
        try:
            new = read_key_set(document, self.algorithms)
        except KeySetError as error:
            self.fail(str(error), now, jitter)
            return
        self.keys = _keep_known(new, self.keys)
        self.is_refreshing = False
        self.fetched_at = now
        self.failures = 0
        self.problem = None
        if self._refresh is not None:
            self._next = now + self._refresh * (0.9 + 0.2 * jitter)

    def fail(self, problem: str, now: float, jitter: float) -> None:
        """No document came. Back off: half of the wait is fixed, half is drawn."""
        self.is_refreshing = False
        self.failures += 1
        self.problem = problem
        first, longest = BACK_OFF
        self._next = now + min(longest, first * 2.0 ** min(self.failures - 1, 16)) * (0.5 + 0.5 * jitter)

    def abandon(self) -> None:
        """The attempt was given up by us: that says nothing about the issuer."""
        self.is_refreshing = False


def _keep_known(new: KeySet, old: KeySet | None) -> KeySet:
    """The new set, with the old object for a key that is in both: tokens verified with it stay verified. Those that are
    gone are retired."""
    known = {} if old is None else {(key.kid, key.material, key.algorithms): key for key in old.keys}
    keys = tuple(known.pop((key.kid, key.material, key.algorithms), key) for key in new.keys)
    for gone in known.values():
        gone.is_retired = True
    return KeySet(keys, new.problems)
