"""The health of one endpoint and of each model on it, as decided by checks. Pure: `checks` asks, this decides.

    unknown   too few checks: it takes calls, or none yet if it was added to other endpoints
    in        healthy
    out       unhealthy, after `unhealthy_after` consecutive failed checks; `healthy_after` good ones bring it back

One good check is enough for an unknown one, so that new pods take calls as soon as their model is AVAILABLE. A failed
check of the endpoint counts for every model on it: after a restart its models have to be loaded again, and none of them
may take calls because of an earlier check.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class CheckSettings(msgspec.Struct, frozen=True):
    """The models to check, and the thresholds."""

    models: tuple[str, ...] = ()
    unhealthy_after: int = 2
    healthy_after: int = 1


class _CheckState:
    """The health of the endpoint, or of a model on it."""

    __slots__ = ("bad", "good", "is_in", "is_known", "since")

    def __init__(self, is_in: bool) -> None:
        self.is_in = is_in
        self.is_known = False
        self.bad = 0
        """Consecutive checks."""
        self.good = 0
        """Consecutive checks."""
        self.since: float | None = None
        """When it became healthy; None while it is out, and if it was in from the start."""

    def count(self, is_good: bool, settings: CheckSettings, now: float) -> bool:
        """Count a check. True: it changed to in or out."""
        if is_good:
            self.bad = 0
            self.good += 1
            if not self.is_in and (not self.is_known or self.good >= settings.healthy_after):
                self.is_in = self.is_known = True
                self.since = now
                return True
            self.is_known = True
        else:
            self.good = 0
            self.bad += 1
            if self.is_in and self.bad >= settings.unhealthy_after:
                self.is_in = False
                self.is_known = True
                self.since = None
                return True
        return False


class Health:
    """The health of one endpoint. `allows` is called for every request: 0.05 us."""

    __slots__ = ("_endpoint", "_models", "is_advisory", "is_healthy", "out", "settings")

    def __init__(self, settings: CheckSettings, *, begins_unhealthy: bool = False, is_advisory: bool = False) -> None:
        """
        Args:
            settings: the models to check, and the thresholds.
            begins_unhealthy: the endpoint was added to others: it takes no calls before a good check.
            is_advisory: no document asks for the checks: if all endpoints fail them, all are called.
        """
        self.settings = settings
        self.is_advisory = is_advisory
        self._endpoint = _CheckState(not begins_unhealthy)
        self._models = {model: _CheckState(not begins_unhealthy) for model in settings.models}
        self.is_healthy = not begins_unhealthy
        """Of the endpoint itself; each of its models may still be out."""
        self.out: set[str] = set(settings.models) if begins_unhealthy else set()
        """Models that are unhealthy there."""

    def allows(self, model: str) -> bool:
        """Whether the endpoint takes calls of this model. For a model that is not checked only the endpoint counts."""
        return self.is_healthy and model not in self.out

    def is_known(self, model: str) -> bool:
        """Whether a check has decided what `allows` says of this model. Before that, calls are tried, but the pod must
        not be reported ready."""
        state = self._models.get(model)
        return self._endpoint.is_known and (state is None or state.is_known)

    def record(self, model: str | None, is_good: bool, now: float) -> bool:
        """A check has ended.

        Args:
            model: one of `settings.models`, others are ignored; None: the check was of the endpoint itself.
            is_good: its result.
            now: monotonic seconds.

        Returns:
            Whether `allows` changed for any model.
        """
        if model is not None:
            state = self._models.get(model)
            return state is not None and self._count(model, state, is_good, now)
        has_changed = self._endpoint.count(is_good, self.settings, now)
        self.is_healthy = self._endpoint.is_in
        if not is_good:
            for name, state in self._models.items():
                has_changed |= self._count(name, state, False, now)
        return has_changed

    def _count(self, model: str, state: _CheckState, is_good: bool, now: float) -> bool:
        if not state.count(is_good, self.settings, now):
            return False
        if state.is_in:
            self.out.discard(model)
        else:
            self.out.add(model)
        return True

    def since(self, model: str) -> float | None:
        """When this model became healthy there: the beginning of slow start. None: it is unhealthy, or was healthy from
        the start."""
        if not self.allows(model):
            return None
        state = self._models.get(model)
        moments = [one.since for one in (self._endpoint, state) if one is not None and one.since is not None]
        return max(moments, default=None)

    def watch(self, models: Iterable[str]) -> None:
        """Replace the models to check. Those that stay keep their health; new ones are unknown, and take calls where
        the endpoint does."""
        settings = self.settings
        self.settings = CheckSettings(tuple(models), settings.unhealthy_after, settings.healthy_after)
        self._models = {model: self._models.get(model) or _CheckState(True) for model in self.settings.models}
        self.out = {model for model, state in self._models.items() if not state.is_in}
