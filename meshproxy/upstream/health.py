"""What checks have found out about one endpoint, and about each model on it. Pure: `checks` asks, this decides.

    unknown   not enough checks to say: it takes calls (only calls tell), or none yet if it is new among others
    in        the last verdict was good
    out       `unhealthy_after` bad checks in a row; `healthy_after` good ones in a row bring it back

The first good check of what is unknown is a verdict, so that new pods take calls as soon as their model is AVAILABLE.
A bad check of the endpoint counts for every model on it: after a restart its models have to be loaded again, and none
of them may take calls on the strength of what it said before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Checked:
    """What is asked, and how often it must be answered alike."""

    models: tuple[str, ...] = ()
    unhealthy_after: int = 2
    healthy_after: int = 1


class _Verdict:
    """On one thing: the endpoint, or a model on it."""

    __slots__ = ("bad", "good", "is_in", "is_known", "since")

    def __init__(self, is_in: bool) -> None:
        self.is_in = is_in
        self.is_known = False
        self.bad = 0
        """In a row."""
        self.good = 0
        """In a row."""
        self.since: float | None = None
        """When it came in; None while it is out, and if it was in when it was first seen."""

    def count(self, is_good: bool, checked: Checked, now: float) -> bool:
        """A check. True: it has gone in or out with it."""
        if is_good:
            self.bad = 0
            self.good += 1
            if not self.is_in and (not self.is_known or self.good >= checked.healthy_after):
                self.is_in = self.is_known = True
                self.since = now
                return True
            self.is_known = True
        else:
            self.good = 0
            self.bad += 1
            if self.is_in and self.bad >= checked.unhealthy_after:
                self.is_in = False
                self.is_known = True
                self.since = None
                return True
        return False


class Health:
    """One endpoint. `allows` is on the way of every call: 0.05 us."""

    __slots__ = ("_endpoint", "_models", "checked", "is_healthy", "out")

    def __init__(self, checked: Checked, *, begins_unhealthy: bool = False) -> None:
        """
        Args:
            checked: what is asked.
            begins_unhealthy: the endpoint has come to others that take calls: it takes none until a check says so.
        """
        self.checked = checked
        self._endpoint = _Verdict(not begins_unhealthy)
        self._models = {model: _Verdict(not begins_unhealthy) for model in checked.models}
        self.is_healthy = not begins_unhealthy
        """The endpoint itself takes calls; each of its models may still be out."""
        self.out: set[str] = set(checked.models) if begins_unhealthy else set()
        """Models that take no calls there."""

    def allows(self, model: str) -> bool:
        """Whether calls of this model may go there. Of a model that is not asked for only the endpoint counts."""
        return self.is_healthy and model not in self.out

    def is_known(self, model: str) -> bool:
        """Whether a check has decided what `allows` says of this model: before that it has the benefit of the doubt,
        which is enough for a call to be tried, and not for a pod to be called ready."""
        verdict = self._models.get(model)
        return self._endpoint.is_known and (verdict is None or verdict.is_known)

    def record(self, model: str | None, is_good: bool, now: float) -> bool:
        """A check has ended.

        Args:
            model: one of `checked.models`, others are ignored; None: the check was of the endpoint itself.
            is_good: how.
            now: monotonic seconds.

        Returns:
            Whether the endpoint takes other calls than before.
        """
        if model is not None:
            verdict = self._models.get(model)
            return verdict is not None and self._count(model, verdict, is_good, now)
        has_changed = self._endpoint.count(is_good, self.checked, now)
        self.is_healthy = self._endpoint.is_in
        if not is_good:
            for name, verdict in self._models.items():
                has_changed |= self._count(name, verdict, False, now)
        return has_changed

    def _count(self, model: str, verdict: _Verdict, is_good: bool, now: float) -> bool:
        if not verdict.count(is_good, self.checked, now):
            return False
        if verdict.is_in:
            self.out.discard(model)
        else:
            self.out.add(model)
        return True

    def since(self, model: str) -> float | None:
        """When this model began to take calls there: what warming up is counted from. None: it takes none, or has
        taken them ever since we know the endpoint."""
        if not self.allows(model):
            return None
        verdict = self._models.get(model)
        moments = [one.since for one in (self._endpoint, verdict) if one is not None and one.since is not None]
        return max(moments, default=None)

    def watch(self, models: Iterable[str]) -> None:
        """Other models are asked for from now on. What is known of those that stay is kept; new ones are unknown, and
        take calls where the endpoint does."""
        checked = self.checked
        self.checked = Checked(tuple(models), checked.unhealthy_after, checked.healthy_after)
        self._models = {model: self._models.get(model) or _Verdict(True) for model in self.checked.models}
        self.out = {model for model, verdict in self._models.items() if not verdict.is_in}
