"""The evidence of a rollout, window by window, and what follows from it. Mode `sequential`.

    test           of both arms, in the same window                                   acts above
    errors         failed calls by whose failure it is (gRPC status, HTTP status)     `effects.error_share`
    inputs         calls refused for their input                                      `effects.input_share`
    latency        all calls by rank; beyond the 90th, 97th and 99th percentile       `effects.latency_ratio`
    NaN            answers with NaN or infinities                                     `effects.nan_share`
    classes, scores, sizes                                                            `effects.psi`, `size_ratio`
                   of the candidate alone
    ceilings       share of failed calls, of slow calls, of answers with NaN, of shadow copies that differ

Each test has a share of `false_rollbacks`, all of them together no more than that: the chance that a candidate which is
as good as the stable version is *ever* rolled back, however often it is looked at. A test fails the candidate if its
evidence is above what that share demands **and** the difference in the last windows is at least the effect that
matters. Evidence of 20 to 1 for such a difference holds the rollout until it is clear. The latency is compared per call
where both arms have calls of the same size, and per example where they have not.

If the stable version breaks a ceiling, too, going back to it would help nobody: that holds. Pure: no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING

import msgspec

from meshproxy.rollout.distributions import Distributions
from meshproxy.rollout.evidence import Evidence
from meshproxy.rollout.odds import against, two_arms
from meshproxy.rollout.quantiles import above, geometric_mean_ratio, quantile, tail, whole
from meshproxy.rollout.verdict import Outcome, Verdict
from meshproxy.rollout.window import ArmWindow, Blame, bucket

if TYPE_CHECKING:
    from meshproxy.rollout.analysis import Analysis, Samples

SHARES = {
    "errors": 0.35,
    "latency": 0.2,
    "latency p90": 0.03,
    "latency p97": 0.07,
    "latency p99": 0.05,
    "inputs": 0.05,
    "nan": 0.025,
    "NaN ceiling": 0.05,
    "classes": 0.025,
    "scores": 0.05,
    "sizes": 0.025,
    "error ceiling": 0.025,
    "latency ceiling": 0.025,
    "disagreement ceiling": 0.025,
}
"""Of `false_rollbacks`, by test. A tenth of it costs 2.3 of some 9 that the evidence has to reach."""
TAILS = {"latency p90": 0.9, "latency p97": 0.97, "latency p99": 0.99}
"""The 97th is where most is seen of a tail that is slower by itself: three times as many calls are beyond it as beyond
the 99th."""
SUSPICION = log(20.0)
"""Evidence that holds the rollout."""
AS_BAD = 1.0
"""Evidence that the stable version breaks the ceiling, too."""
DURATIONS = frozenset({"request-duration", "example-duration"})
DISTRIBUTIONS = {"class-distribution": "classes", "score-distribution": "scores", "response-size": "sizes"}
OUTPUTS = frozenset({"not-a-number", "class-distribution", "score-distribution"})
"""What is read in answers, not in all of them."""
SAME_SIZE = 1.1
"""Examples per call of one arm to the other's: up to this, calls are compared, not examples."""
BLOCK_WINDOWS = 5
BLOCK_CALLS = 1_000
"""Of the candidate: a block of windows is full when it has as many of both. The last full one and the one that is being
filled are what differences are taken from. So the state does not grow, and a version that turns bad late is not hidden
by the good hours before."""


class Block(msgspec.Struct):
    """Both arms over some windows."""

    windows: int = 0
    candidate: ArmWindow = msgspec.field(default_factory=ArmWindow)
    stable: ArmWindow = msgspec.field(default_factory=ArmWindow)


class State(msgspec.Struct):
    """All that the judge remembers. Kept over restarts of the control plane."""

    evidence: dict[str, Evidence] = {}
    """By the names of `SHARES`."""
    stable_evidence: dict[str, Evidence] = {}
    """Of the stable version against the ceilings."""
    distributions: dict[str, Distributions] = {}
    """`classes`, `scores`, `sizes`."""
    compared: dict[str, int] = {}
    """By the same names, once the groups are made: calls, or answers that were read, of the version that has had fewer,
    in the windows that were compared."""
    last: Block = msgspec.field(default_factory=Block)
    """The last full one."""
    block: Block = msgspec.field(default_factory=Block)
    """The one that is being filled."""
    calls: int = 0
    """Of the candidate since the step began."""
    stable_calls: int = 0
    answers: int = 0
    """Of the candidate that were read since the step began."""
    stable_answers: int = 0

    def begin_step(self) -> None:
        """Another share of traffic: the samples are counted anew, the evidence stays."""
        self.calls = self.stable_calls = self.answers = self.stable_answers = 0

    def recent(self) -> tuple[ArmWindow, ArmWindow]:
        """The candidate and the stable version in the last windows."""
        return self.last.candidate + self.block.candidate, self.last.stable + self.block.stable


@dataclass(frozen=True, slots=True)
class Finding:
    """One test, after a window."""

    test: str
    strength: float
    """The logarithm of the odds against the candidate."""
    matters: bool
    """Whether the difference is at least the effect that matters."""
    words: str


class Judge:
    """Judges one rollout.

    Args:
        analysis: the settings.
        state: from before, or a new one; changed by every window.
    """

    def __init__(self, analysis: Analysis, state: State) -> None:
        self.analysis = analysis
        self.state = state
        self._judged = frozenset(limit.name for limit in analysis.metrics)

    def add(self, candidate: ArmWindow, stable: ArmWindow) -> Verdict:
        """Takes what both arms did in the same minutes, and judges all windows so far."""
        self.remember(candidate, stable)
        self._learn(candidate, stable)
        return self._judge()

    def remember(self, candidate: ArmWindow, stable: ArmWindow) -> None:
        """Count what both did, without judging it."""
        state = self.state
        if state.block.windows >= BLOCK_WINDOWS and state.block.candidate.calls >= BLOCK_CALLS:
            state.last, state.block = state.block, Block()
        state.block.windows += 1
        state.block.candidate += candidate
        state.block.stable += stable
        state.calls += candidate.calls
        state.stable_calls += stable.calls
        state.answers += candidate.answers
        state.stable_answers += stable.answers

    def _learn(self, candidate: ArmWindow, stable: ArmWindow) -> None:
        if "request-success-rate" in self._judged:
            for name, whose in (("errors", Blame.ARM), ("inputs", Blame.INPUT)):
                self._add(name, candidate.failed(whose), candidate.calls, stable.failed(whose), stable.calls)
        slow, slow_stable = self.latencies(candidate, stable)
        if slow and slow_stable and self._judged & DURATIONS:
            self._of("latency").add(whole(slow, slow_stable))
            for name, share in TAILS.items():
                self._of(name).add(tail(slow, slow_stable, share))
        if "not-a-number" in self._judged:
            self._add("nan", candidate.nan_answers, candidate.answers, stable.nan_answers, stable.answers)
        for metric, name in DISTRIBUTIONS.items():
            if metric in self._judged:
                known = self.state.distributions.setdefault(name, Distributions(ordered=name != "classes"))
                compared = known.add(getattr(candidate, name), getattr(stable, name))
                if known.candidate:
                    had = (candidate.answers, stable.answers) if metric in OUTPUTS else (candidate.calls, stable.calls)
                    self.state.compared[name] = self.state.compared.get(name, 0) + compared * min(had)
        self._learn_ceilings(candidate, self.state.evidence)
        self._learn_ceilings(stable, self.state.stable_evidence)

    def _learn_ceilings(self, window: ArmWindow, evidence: dict[str, Evidence]) -> None:
        ceilings = self.analysis.ceilings
        pairs = []
        if ceilings.error_share is not None:
            pairs.append(("error ceiling", window.failed(Blame.ARM), window.calls, ceilings.error_share))
        if ceilings.latency is not None:
            slow = above(window.latency, bucket(ceilings.latency))
            pairs.append(("latency ceiling", slow, sum(window.latency.values()), 1 - ceilings.latency_quantile))
        if ceilings.nan_share is not None and "not-a-number" in self._judged:
            pairs.append(("NaN ceiling", window.nan_answers, window.answers, ceilings.nan_share))
        if ceilings.disagreement_share is not None:
            pairs.append(("disagreement ceiling", window.disagreements, window.shadows, ceilings.disagreement_share))
        for name, events, calls, share in pairs:
            if calls:
                evidence.setdefault(name, Evidence()).add(against(events, calls, share))

    def _add(self, name: str, events: int, calls: int, stable_events: int, stable_calls: int) -> None:
        if calls and stable_calls:
            self._of(name).add(two_arms(events, calls, stable_events, stable_calls))

    def _of(self, name: str) -> Evidence:
        return self.state.evidence.setdefault(name, Evidence())

    def latencies(self, candidate: ArmWindow, stable: ArmWindow) -> tuple[dict[int, int], dict[int, int]]:
        """Which histograms are compared: per call, or per example where that is asked for, or one arm has larger calls
        than the other."""
        sized, sized_stable = sum(candidate.latency_per_example.values()), sum(stable.latency_per_example.values())
        if candidate.examples and stable.examples and sized and sized_stable:
            ratio = (candidate.examples / sized) / (stable.examples / sized_stable)
            if not 1 / SAME_SIZE <= ratio <= SAME_SIZE or "request-duration" not in self._judged:
                return candidate.latency_per_example, stable.latency_per_example
        return candidate.latency, stable.latency

    def _judge(self) -> Verdict:
        worse, doubtful, both = [], [], []
        for finding in self.findings():
            if not finding.matters:
                continue
            if finding.strength >= needed(finding.test, self.analysis):
                as_bad = self.state.stable_evidence.get(finding.test)
                if as_bad is not None and as_bad.strength >= AS_BAD:
                    both.append(f"{finding.words}, and so does the stable version: going back would not help")
                else:
                    worse.append(f"{finding.words} ({odds(finding.strength)} against chance)")
            elif finding.strength >= SUSPICION:
                doubtful.append(f"{finding.words}, which may be chance ({odds(finding.strength)} against it): waiting")
        if worse:
            return Verdict(Outcome.FAIL, tuple(worse))
        lacking = missing(self.analysis.samples, self.state, reads_answers=bool(self._judged & OUTPUTS))
        held = (*both, *doubtful, *lacking)
        return Verdict(Outcome.INSUFFICIENT, held) if held else Verdict(Outcome.PASS)

    def findings(self) -> list[Finding]:
        """Every test that has had data, with what it has found so far."""
        effects = self.analysis.effects
        candidate, stable = self.state.recent()
        found = []
        for name, verb, whose, least in (
            ("errors", "fails", Blame.ARM, effects.error_share),
            ("inputs", "refuses the input of", Blame.INPUT, effects.input_share),
        ):
            share, other = _share(candidate.failed(whose), candidate.calls), _share(stable.failed(whose), stable.calls)
            words = f"it {verb} {share:.2%} of the calls, the stable version {other:.2%}"
            found.append(self._finding(name, share - other >= least, words))
        slow, slow_stable = self.latencies(candidate, stable)
        unit = "" if slow is candidate.latency else " per example"
        ratio = geometric_mean_ratio(slow, slow_stable)
        found.append(
            self._finding(
                "latency",
                ratio >= effects.latency_ratio,
                f"it takes {ratio:.2f} times as long{unit} as the stable version, typically",
            )
        )
        for name, share in TAILS.items():
            value, other = quantile(slow, share), quantile(slow_stable, share)
            ratio = value / other if other else 1.0
            words = (
                f"its {share:.0%} percentile{unit} is {_seconds(value)}, {ratio:.2f} times the stable version's "
                f"{_seconds(other)}"
            )
            found.append(self._finding(name, ratio >= effects.latency_ratio, words))
        share, other = _share(candidate.nan_answers, candidate.answers), _share(stable.nan_answers, stable.answers)
        words = f"{share:.2%} of its answers have NaN or infinities, of the stable version's {other:.2%}"
        found.append(self._finding("nan", share - other >= effects.nan_share, words))
        for name, known in self.state.distributions.items():
            matters, words = known.psi >= effects.psi, f"PSI {known.psi:.2f}"
            if name == "sizes":
                ratio = geometric_mean_ratio(candidate.sizes, stable.sizes)
                matters, words = max(ratio, 1 / ratio) >= effects.size_ratio, f"{ratio:.2f} times, typically"
            words = f"the {name} of its answers are distributed otherwise ({words})"
            found.append(Finding(name, known.evidence.strength, matters, words))
        found.extend(self._ceilings(candidate))
        return found

    def _ceilings(self, candidate: ArmWindow) -> list[Finding]:
        limits = self.analysis.ceilings
        found = []
        if limits.error_share is not None:
            share = _share(candidate.failed(Blame.ARM), candidate.calls)
            words = f"it fails {share:.2%} of the calls, more than the {limits.error_share:.2%} allowed"
            found.append(self._finding("error ceiling", True, words))
        if limits.latency is not None:
            value = quantile(candidate.latency, limits.latency_quantile)
            words = (
                f"its {limits.latency_quantile:.4g} quantile of the latency is {_seconds(value)}, above the "
                f"{_seconds(limits.latency)} allowed"
            )
            found.append(self._finding("latency ceiling", True, words))
        if limits.nan_share is not None:
            share = _share(candidate.nan_answers, candidate.answers)
            words = f"{share:.2%} of its answers have NaN or infinities, more than the {limits.nan_share:.2%} allowed"
            found.append(self._finding("NaN ceiling", True, words))
        if limits.disagreement_share is not None:
            share = _share(candidate.disagreements, candidate.shadows)
            words = (
                f"{share:.2%} of its answers to copies differ from the stable version's, more than the "
                f"{limits.disagreement_share:.2%} allowed"
            )
            found.append(self._finding("disagreement ceiling", True, words))
        return found

    def _finding(self, test: str, matters: bool, words: str) -> Finding:
        evidence = self.state.evidence.get(test)
        return Finding(test, evidence.strength if evidence is not None else 0.0, matters, words)


def needed(test: str, analysis: Analysis) -> float:
    """The logarithm of the odds that a test has to reach to fail the candidate."""
    return -log(analysis.false_rollbacks * SHARES[test])


def missing(samples: Samples, state: State, *, reads_answers: bool) -> list[str]:
    """What the step still lacks before it may pass.

    Args:
        reads_answers: what is in answers is judged. Reading them is sampled, so there may be few. Where there are none
            at all, they cannot be read, and nothing waits for them.
    """
    lacking = []
    for arm, calls in (("candidate", state.calls), ("stable version", state.stable_calls)):
        if calls < samples.calls:
            lacking.append(f"the {arm} has had {calls} calls in this step, and {samples.calls} are needed")
    if reads_answers and (state.answers or state.stable_answers):
        for arm, answers in (("candidate", state.answers), ("stable version", state.stable_answers)):
            if answers < samples.calls:
                lacking.append(f"{answers} answers of the {arm} were read in this step, and {samples.calls} are needed")
    for name, compared in state.compared.items():
        if compared < samples.calls:
            lacking.append(
                f"{compared} answers of each version were compared by their {name}, and {samples.calls} are needed: "
                f"the first window only tells what is usual"
            )
    return lacking


def odds(strength: float) -> str:
    """A strength as people say it."""
    return f"{exp(strength):.0f} to 1" if strength < log(1e6) else "more than a million to 1"


def _share(events: int, calls: int) -> float:
    return events / calls if calls else 0.0


def _seconds(value: float) -> str:
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
