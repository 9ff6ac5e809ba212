"""`ModelRoute` documents compiled once, looked up once per call.

`Routes.match` gives the `Route`, whose attributes are all that is decided before a request is sent. What varies from
call to call is asked of the route afterwards, and only if it is not plain: which arm of a split, which version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from meshproxy.config.globs import compile_glob, is_literal, specificity
from meshproxy.routing.cors import CorsPolicy
from meshproxy.routing.fault import FaultRule
from meshproxy.routing.match import Condition
from meshproxy.routing.retry import (
    INBOUND_DEFAULTS,
    INBOUND_RETRIES,
    OUTBOUND_DEFAULTS,
    OUTBOUND_RETRIES,
    RetryBudget,
    RetryRule,
)
from meshproxy.routing.split import Arm, Split, redirect, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.codec.events import Headers
    from meshproxy.config.rollouts import ModelRollout
    from meshproxy.config.routes import Concurrency, Destination, Fallback, Mirror, ModelRoute
    from meshproxy.config.servers import Key
    from meshproxy.identity.caller import Caller
    from meshproxy.inference.call import Call
    from meshproxy.routing.carried_state import CarriedState
    from meshproxy.routing.live_split import LiveSplit
    from meshproxy.routing.rate_limit import RateLimiter

MEMO_ENTRIES = 4_096
PRIORITIES = {"critical": 0, "default": 1, "sheddable": 2}


def _budget() -> RetryBudget:
    return RetryBudget(OUTBOUND_DEFAULTS.budget_ratio, OUTBOUND_DEFAULTS.budget_min)


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """What a document says about its calls, ready to be used. Compared by identity."""

    name: str
    """Of the document; empty for the default route."""
    server: str | None
    """Name of the `ModelServer`; None: the base server of the request."""
    split: Split | LiveSplit | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """What version labels mean."""
    sticky: Key | None = None
    """What selects the arm; None: random, or only one arm."""
    mirror: Mirror | None = None
    """With its label resolved, if it is one of `labels`."""
    fault: FaultRule | None = None
    fallback: Arm | None = None
    """What calls become for which no endpoint is available: model, version and label whatever they name, at this server
    or, without one, at the same."""
    timeout: float | None = None
    """Seconds for the whole exchange; None: as long as it takes."""
    try_timeout: float | None = None
    """Seconds from sending to the first byte of an answer."""
    idle_timeout: float | None = None
    """Seconds between two parts of a response."""
    retry: RetryRule = OUTBOUND_RETRIES
    budget: RetryBudget = field(default_factory=_budget)
    concurrency: Concurrency | None = None
    rate_limiters: tuple[RateLimiter, ...] = ()
    counts_examples: bool = False
    """One of the rate_limiters is about examples: the batch has to be looked at."""
    priority: int = PRIORITIES["default"]
    """0 critical, 1 default, 2 sheddable."""
    cors: CorsPolicy | None = None
    """What browsers are told; of inbound routes for all calls of their models only."""
    refuses_late: bool = False
    """Calls with less time left than their model usually takes are refused at once."""
    arms: tuple[Arm, ...] = field(init=False)
    total: int = field(init=False)
    """The sum of the weights of the arms."""
    is_plain: bool = field(init=False)
    """Nothing is left to decide: no split, labels, fault, mirror, rate_limiters, concurrency, or fallback to another
    model."""

    def __post_init__(self) -> None:
        split = self.split
        is_plain = (
            split is None
            and not self.labels
            and self.mirror is None
            and self.fault is None
            and self.concurrency is None
            and not self.rate_limiters
            and (self.fallback is None or not self.fallback.rewrites)
        )
        object.__setattr__(self, "arms", split.arms if split is not None else ())
        object.__setattr__(self, "total", split.total if split is not None else 0)
        object.__setattr__(self, "is_plain", is_plain)

    def arm(self, call: Call, point: float) -> Arm:
        """The arm of the split at a point from 0 to 1: chance, or what the sticky key makes of itself. Its server
        counts for every call, its version only for those that `forwarded` writes it into.

        Raises:
            LookupError: the route has no split.
        """
        if self.split is None:
            raise LookupError(f"route {self.name!r} has no split")
        return self.split.choose(call, point)

    def forwarded(self, call: Call, arm: Arm | None) -> Call:
        """The call as it is to be forwarded (see `split.resolve`); `call` itself if nothing changes."""
        return resolve(call, arm, self.labels)

    def mirrored(self, call: Call) -> Call:
        """The call of a mirrored request, with the mirror's model and version; `call` itself if nothing changes."""
        mirror = self.mirror
        return call if mirror is None else redirect(call, mirror.model, mirror.version, mirror.label)

    def fallen_back(self, call: Call) -> Call:
        """The call as it goes to the fallback; `call` itself if nothing changes."""
        arm = self.fallback
        return call if arm is None else redirect(call, arm.model, arm.version, arm.label)


Candidate = tuple[tuple[Condition, ...], Route]
"""A route, and what requests must be like, one of these; without any, it is for all."""


class Routes:
    """Routes by model name; a name beats a glob, and of two globs the one with more fixed characters wins. Of routes
    with one pattern those with conditions come first, in the order of documents.

    A call whose route has no conditions costs one look-up if the route names the model, two if a glob fits it: 0.1 us.
    Reading a dozen headers costs 2 us.
    """

    __slots__ = ("_choices", "_default", "_fixed", "_globs", "_is_empty", "_known", "_named", "has_cors", "headers")

    def __init__(self, default: Route, patterns: Sequence[tuple[str, tuple[Condition, ...], Route]] = ()) -> None:
        """
        Args:
            default: for calls that no route fits.
            patterns: each with the conditions of its route and the route, in the order of documents.
        """
        self._default = default
        self._is_empty = not patterns
        found: dict[str, list[Candidate]] = {}
        for pattern, conditions, route in patterns:
            found.setdefault(pattern, []).append((conditions, route))
        for candidates in found.values():
            candidates.sort(key=lambda candidate: not candidate[0])
        self._named = {pattern: candidates for pattern, candidates in found.items() if is_literal(pattern)}
        globs = sorted(found.keys() - self._named.keys(), key=specificity, reverse=True)
        self._globs: list[tuple[Callable[[str], object], list[Candidate]]] = [
            (compile_glob(pattern), found[pattern]) for pattern in globs
        ]
        self._fixed = {name: first[0][1] for name, first in self._named.items() if not first[0][0]}
        self.headers = frozenset(
            rule.spelled for _, conditions, _ in patterns for condition in conditions for rule in condition.headers
        )
        """Names of the headers, `spelled`, that a choice may depend on."""
        self.has_cors = any(route.cors is not None for _, _, route in patterns)
        # Names looked at so far, bounded: the caller chooses them.
        self._known: dict[str, Route] = {}
        self._choices: dict[str, tuple[Candidate, ...]] = {}

    def match(self, call: Call, headers: Headers, caller: Caller) -> Route:
        """The route of the first model that `call` names, the default for those that name none. Several models in one
        call are one server's: MultiInference insists on one name, a reload is about the server as a whole."""
        if self._is_empty or not call.models:
            return self._default
        name = call.models[0].name
        return self._fixed.get(name) or self._known.get(name) or self._choose(name, headers, caller)

    def for_all(self, call: Call) -> Route:
        """The route without conditions: of a preflight, which has neither the headers nor the caller of the call."""
        if self._is_empty or not call.models:
            return self._default
        name = call.models[0].name
        known = self._fixed.get(name) or self._known.get(name)
        if known is not None:
            return known
        candidates = self._choices.get(name) or self._look(name)
        return next(route for conditions, route in candidates if not conditions)

    def choices(self, model: str) -> tuple[Candidate, ...]:
        """The routes that calls of a model may have, in the order in which they are asked."""
        return self._look(model)

    def _choose(self, name: str, headers: Headers, caller: Caller) -> Route:
        candidates = self._choices.get(name) or self._look(name)
        for conditions, route in candidates:
            if not conditions:
                return route
            for condition in conditions:
                if condition.fits(headers, caller):
                    return route
        return self._default

    def _look(self, name: str) -> tuple[Candidate, ...]:
        """Routes that fit the name, down to the first that is for all."""
        found = list(self._named.get(name, ()))
        for fits, candidates in self._globs:
            if found and not found[-1][0]:
                break
            if fits(name):
                found += candidates
        choice = (*found, ((), self._default))
        if len(self._known) + len(self._choices) >= MEMO_ENTRIES:
            self._known.clear()
            self._choices.clear()
        if choice[0][0]:
            self._choices[name] = choice
        else:
            self._known[name] = choice[0][1]
        return choice


Direction = Literal["inbound", "outbound"]
_RETRIES = {"inbound": (INBOUND_RETRIES, INBOUND_DEFAULTS), "outbound": (OUTBOUND_RETRIES, OUTBOUND_DEFAULTS)}


def compile_routes(
    direction: Direction,
    server: str | None,
    timeout: float | None,
    routes: Sequence[ModelRoute],
    trust_domain: str,
    carried: CarriedState,
    rollouts: Sequence[ModelRollout] = (),
) -> Routes:
    """Compile the documents that hold for one direction.

    Args:
        server: where calls go whose route names no server; None: to the base server of the request.
        timeout: seconds that an exchange may take where its route does not say.
        trust_domain: the mesh's own, of callers whose trust domain a `match` does not name.
        carried: gives budgets and rate limiters; `adopt` it when the routes of all directions are in use.
    """
    retry, retries = _RETRIES[direction]
    budget = carried.budget(f"{direction}/", retries.budget_ratio, retries.budget_min)
    default = Route("", server, timeout=timeout, retry=retry, budget=budget)
    patterns: list[tuple[str, tuple[Condition, ...], Route]] = []
    for document in routes:
        spec = document.spec
        # Callers of outbound calls are not known: a match that names one fits none of them.
        matches = [match for match in spec.match if direction == "inbound" or match.caller is None]
        if direction in spec.directions and (matches or not spec.match):
            conditions = tuple(Condition(match, trust_domain) for match in matches)
            route = _compile(direction, server, timeout, document, carried)
            patterns += [(pattern, conditions, route) for pattern in dict.fromkeys(spec.models)]
    compiled = Routes(default, patterns)
    for rollout in rollouts:
        if rollout.spec.chosen_by == direction:
            # The routes that its calls have get its arms, and are for its model alone.
            model = rollout.spec.model
            found = [
                (model, conditions, _under(rollout, route, carried)) for conditions, route in compiled.choices(model)
            ]
            patterns = [each for each in patterns if each[0] != model] + found
    return Routes(default, patterns) if rollouts else compiled


def _under(rollout: ModelRollout, route: Route, carried: CarriedState) -> Route:
    """The route of calls whose version a rollout chooses. One that splits them itself does so: loading has made sure
    that there is none."""
    spec = rollout.spec
    if route.split is not None:
        return route
    counts = any(metric.name == "example-duration" for metric in spec.analysis.judged)
    return replaced(
        route,
        split=carried.live_split(rollout),
        sticky=spec.sticky,
        counts_examples=route.counts_examples or counts,
    )


def _compile(
    direction: Direction, default_server: str | None, timeout: float | None, document: ModelRoute, carried: CarriedState
) -> Route:
    spec = document.spec
    # Each direction has its own budgets and rate limiters, so that one cannot exhaust those of the other.
    name = f"{direction}/{document.metadata.name}"
    server = spec.server or default_server
    retry, retries = _RETRIES[direction]
    if spec.retries is not None:
        retry, retries = RetryRule(spec.retries), spec.retries
    split = None
    if spec.split:
        split = Split([_arm(destination, server, spec.labels) for destination in spec.split])
    mirror = spec.mirror
    if mirror is not None:
        version, label = _resolved(mirror.version, mirror.label, spec.labels)
        mirror = replace(mirror, version=version, label=label)
    return Route(
        name=document.metadata.name,
        server=server,
        split=split,
        labels=spec.labels,
        sticky=spec.sticky if sum(bool(destination.weight) for destination in spec.split) > 1 else None,
        mirror=mirror,
        fault=FaultRule(spec.fault) if spec.fault is not None else None,
        fallback=_fallback(spec.fallback, spec.labels),
        timeout=spec.timeout if spec.timeout is not None else timeout,
        try_timeout=spec.try_timeout,
        idle_timeout=spec.idle_timeout,
        retry=retry,
        budget=carried.budget(name, retries.budget_ratio, retries.budget_min),
        concurrency=spec.concurrency,
        rate_limiters=tuple(carried.rate_limiter(name, index, limit) for index, limit in enumerate(spec.rate_limits)),
        counts_examples=any(limit.examples is not None for limit in spec.rate_limits),
        priority=PRIORITIES[spec.priority],
        refuses_late=spec.refuse_late,
        cors=CorsPolicy(spec.cors) if spec.cors is not None and direction == "inbound" else None,
    )


def _arm(destination: Destination, server: str | None, labels: Mapping[str, str]) -> Arm:
    version, label = _resolved(destination.version, destination.label, labels)
    return Arm(destination.weight, destination.server or server, version, label, destination.model)


def _fallback(fallback: str | Fallback | None, labels: Mapping[str, str]) -> Arm | None:
    if fallback is None or isinstance(fallback, str):
        return None if fallback is None else Arm(1, fallback)
    version, label = _resolved(fallback.version, fallback.label, labels)
    return Arm(1, fallback.server, version, label, fallback.model)


def _resolved(version: str | None, label: str | None, labels: Mapping[str, str]) -> tuple[str | None, str | None]:
    return (labels[label], None) if label is not None and label in labels else (version, label)
