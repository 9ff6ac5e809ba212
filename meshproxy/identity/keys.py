"""The keys of one issuer over time: when they are fetched again, what failure and rotation do to them.

    never had any --take--> fresh --(refresh time)--> stale but used --take--> fresh
         |                    ^                            |
         +--fail (back-off)   +----------- take -----------+--fail (back-off): used on, for as long as it lasts

Keys that were good once stay in use until the issuer publishes a set without them: an issuer that is down for a day
must not take its users down with it. A token with an unknown `kid`, or with a signature that does not fit its key, may
ask for the set out of turn, because that is what a rotation looks like; how often is `key_budget`'s decision. While the
issuer does not answer none may, or requests with such tokens would pile up here.

Pure state: `sidecar/key_refresher.py` does what it says. Times are seconds since the epoch; a clock that jumps only
moves one refresh.
"""

from __future__ import annotations

import math

from meshproxy.identity.jwk import ALGORITHMS, Key, KeySet, KeySetError, read_key_set
from meshproxy.identity.jws import canonical_name
from meshproxy.identity.key_budget import KEYS_REMEMBERED, Ask, KeyBudget, Wanted

REFRESH = 300.0
NAMED_IDS = 16
"""Keys that are had one by one: of those that are not known, so many are asked for at once; and so many that have
verified nothing are kept, since strangers can name any key of the issuer."""
VERIFYING_IDS = 32
"""So many that have verified a token are kept. Together they are fewer than `jwk.KEYS`."""
BACK_OFF = (1.0, 60.0)
"""The first wait after a failure, doubled with each further one, and the longest."""


class IssuerKeys:
    """The key set of one issuer. Lives as long as the issuer is configured, across reloads of other things."""

    __slots__ = (
        "_budget",
        "_next",
        "_refresh",
        "algorithms",
        "are_single",
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
        are_single: bool = False,
    ) -> None:
        """Begin without keys.

        Args:
            issuer: the name in `MeshConfig`.
            algorithms: what the issuer may sign with, of `jwk.ALGORITHMS`; anything else is a ValueError.
            refresh: seconds between two fetches. None: the keys are given once and never fetched.
            are_single: each is had by its id, so there are none before one was named: `wanted_ids` makes up the set.
        """
        algorithms = frozenset(map(canonical_name, algorithms))
        if not algorithms or not algorithms <= ALGORITHMS:
            raise ValueError(f"issuer {issuer}: algorithms must be some of {', '.join(sorted(ALGORITHMS))}")
        self.issuer = issuer
        self.algorithms = algorithms
        self.are_single = are_single
        self.keys: KeySet | None = None
        self.fetched_at: float | None = None
        """When the keys in use came."""
        self.problem: str | None = None
        """Why the last attempt failed; None after a success."""
        self.failures = 0
        """In a row."""
        self.is_refreshing = False
        self._refresh = refresh
        self._budget = KeyBudget(NAMED_IDS if are_single else KEYS_REMEMBERED)
        self._next: float | None = None

    # Questions

    @property
    def has_keys(self) -> bool:
        """Tokens can be verified. Readiness of the sidecar depends on it."""
        return self.keys is not None

    @property
    def wanted_ids(self) -> tuple[str, ...]:
        """Of keys that are had one by one: those in use, the latest of them, and those that tokens have named."""
        known = () if self.keys is None else self.keys.keys
        verifying = [key.kid for key in known if key.has_verified][-VERIFYING_IDS:]
        others = [key.kid for key in known if not key.has_verified][-NAMED_IDS:]
        named = self._budget.looked_for[:NAMED_IDS]
        return tuple(dict.fromkeys(kid for kid in (*verifying, *others, *named) if kid is not None))

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key that a token means, if it is known."""
        return None if self.keys is None else self.keys.find(kid, algorithm)

    def ask(self, kid: str | None, now: float, *, is_known: bool = False) -> Ask:
        """What to do about a token with an unknown `kid`, or (`is_known`) with a signature that is not of its key."""
        if self._refresh is None:
            return Ask.NEVER
        wanted = Wanted(kid, is_known)
        return self._budget.ask(wanted, now, is_fetching=self.is_refreshing, is_failing=self.failures > 0)

    def retry_after(self, now: float) -> int:
        """Seconds after which a token that was told `Ask.LATER` should be sent again."""
        due = max(1, math.ceil(self.wait(now)))
        return due if self.failures else min(due, self._budget.wait(now))

    def wait(self, now: float) -> float:
        """Seconds until the next refresh is due; 0 at once. At most a whole interval, whatever the clock did."""
        if self._next is None:
            return 0.0
        longest = max(self._refresh or 0.0, BACK_OFF[1]) * 1.1
        return min(max(0.0, self._next - now), longest)

    # What happened

    def begin(self) -> None:
        """A refresh begins, or is joined if one is in progress; `take`, `fail` or `abandon` must follow."""
        if not self.is_refreshing:
            self._budget.begin()
        self.is_refreshing = True

    def take(self, document: bytes, now: float, jitter: float) -> None:
        """A document came. A broken one counts as a failure and changes no key.

        Args:
            document: a JWK set.
            now: seconds since the epoch.
            jitter: 0 to 1, drawn each time, so that a fleet does not fetch simultaneously.
        """
        try:
            new = read_key_set(document, self.algorithms, may_be_empty=self.are_single)
        except KeySetError as error:
            self.fail(str(error), now, jitter)
            return
        self.keys = _keep_known(new, self.keys)
        self._budget.end(now, is_success=True)
        self.is_refreshing = False
        self.fetched_at = now
        self.failures = 0
        self.problem = None
        if self._refresh is not None:
            self._next = now + self._refresh * (0.9 + 0.2 * jitter)

    def fail(self, problem: str, now: float, jitter: float) -> None:
        """No document came. Back off: half of the wait is fixed, half is drawn."""
        self._budget.end(now, is_success=False)
        self.is_refreshing = False
        self.failures += 1
        self.problem = problem
        first, longest = BACK_OFF
        self._next = now + min(longest, first * 2.0 ** min(self.failures - 1, 16)) * (0.5 + 0.5 * jitter)

    def abandon(self, now: float) -> None:
        """The attempt was given up by us: that says nothing about the issuer."""
        self._budget.end(now, is_success=False)
        self.is_refreshing = False


def _keep_known(new: KeySet, old: KeySet | None) -> KeySet:
    """The new set, with the old object for a key that is in both: tokens verified with it stay verified. Those that are
    gone are retired."""
    known = {} if old is None else {(key.kid, key.material, key.algorithms): key for key in old.keys}
    keys = tuple(known.pop((key.kid, key.material, key.algorithms), key) for key in new.keys)
    for gone in known.values():
        gone.is_retired = True
    return KeySet(keys, new.problems, new.unused_ids)
