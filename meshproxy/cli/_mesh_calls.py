"""The calls that sidecars have reported, as `meshproxy policy diff` compares policies by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.cli import _mesh, _policy_sets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshproxy.control_api import ReportedCaller
    from meshproxy.identity.caller import Caller
    from meshproxy.policy.compare import Verdict
    from meshproxy.view.tallies import Edge, Tally

HOUR = 3_600.0


def tally(addresses: Sequence[str], timeout: float) -> tuple[_policy_sets.Tally, list[str]]:
    """The calls of the last hour, and what is to be said of them. Raises ClickException if no control plane answers."""
    answers = _mesh.ask(addresses, timeout, HOUR)
    found, left_out = count(answers.tallies())
    times = sorted(page.now for page in answers.pages.values())
    found.first, found.last = times[0], times[-1]
    notes = [*answers.problems, f"these are the calls of {answers.seconds / 60:.0f} minutes up to then"]
    if left_out:
        notes.append(f"{left_out} calls left out whose caller or model is not told apart from others")
    return found, notes


def count(tallies: Mapping[Edge, Tally]) -> tuple[_policy_sets.Tally, int]:
    """The calls, and how many cannot be decided again."""
    from meshproxy.inference.call import Call, ModelRef, Verb
    from meshproxy.policy.compare import Observed
    from meshproxy.telemetry.metrics import OTHER
    from meshproxy.telemetry.model_labels import LATEST, NONE

    verbs = {verb.value: verb for verb in Verb}
    found = _policy_sets.Tally()
    left_out = 0
    callers: dict[ReportedCaller, Caller] = {}
    for edge, each in tallies.items():
        names = (edge.caller.workload, edge.caller.address, edge.model, edge.version)
        if not edge.reporter or edge.verb not in verbs or OTHER in names:
            left_out += each.calls
            continue
        version = None if edge.version in (LATEST, NONE) else edge.version
        is_number = version is None or version.isdigit()
        model = ModelRef(edge.model, version) if is_number else ModelRef(edge.model, label=version)
        observed = Observed(
            callers.setdefault(edge.caller, _caller(edge.caller)),
            Call(verbs[edge.verb], () if edge.model == NONE else (model,)),
            is_signature_known=False,
            address=f"{edge.caller.address}:0" if edge.caller.address else "",
            recorded=_recorded(each),
        )
        found.calls[observed] += each.calls
    return found, left_out


def _caller(reported: ReportedCaller) -> Caller:
    """One object for each: tokens are compared by identity."""
    from meshproxy.identity.caller import Caller, Token, workload_of

    workload = workload_of(reported.workload) if reported.workload else None
    issuer, _, subject = reported.token.partition(":")
    token = Token(issuer, subject, {}, float("inf"), reported.role or None) if issuer else None
    return Caller(workload, token)


def _recorded(tally: Tally) -> Verdict | None:
    """What was decided, if all of it was decided by one binding."""
    from meshproxy.policy.compare import Verdict

    if len(tally.allowed) == 1 and not tally.denied:
        return Verdict(True, next(iter(tally.allowed)))
    if len(tally.denied) == 1 and not tally.allowed and ": " in (reason := next(iter(tally.denied))):
        return Verdict(False, reason.rpartition(": ")[0])
    return None
