"""Expectations of a policy: a file that says who must be allowed what and who must not, and whether it holds.

expectations:
- workload: {namespace: pricing, serviceAccount: quoter}
  token: {issuer: corp, claims: {groups: [finance]}}
  model: fraud
  verbs: [predict, metadata]
  expect: allow
  by: finance-team
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, inspect

from meshproxy.config.codes import Code
from meshproxy.config.fields import (
    ConditionHeader,
    ModelName,
    Name,
    Part,
    RoleArn,
    SpiffeId,
    Text,
    TrustDomain,
    Verb,
    Version,
    one_of,
)
from meshproxy.config.ip_blocks import address_of
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.config.values import shown
from meshproxy.identity.caller import Caller, Token, workload_of
from meshproxy.inference import call as calls
from meshproxy.policy.explain import Explanation, describe, explain
from meshproxy.refusal import Refusal

if TYPE_CHECKING:
    from meshproxy.config.nodes import Node
    from meshproxy.policy.decide import Policy

Answer = Literal["allow", "part", "deny"]
"""`part`: the call is denied, and answered with the versions or signatures that the caller may see."""


class CallerWorkload(Part, frozen=True):
    """The workload in a caller's certificate: namespace and service account, or a whole SPIFFE ID."""

    namespace: Name | None = None
    service_account: Name | None = None
    trust_domain: TrustDomain | None = None
    """Left out: the mesh's own."""
    spiffe_id: SpiffeId | None = None

    def __post_init__(self) -> None:
        if self.spiffe_id is None and (self.namespace is None or self.service_account is None):
            raise ValueError('expected "namespace" and "serviceAccount", or "spiffeId"')
        if self.spiffe_id is not None and (self.namespace, self.service_account, self.trust_domain) != (None,) * 3:
            raise ValueError('"spiffeId" names a workload completely: leave the other fields out')


class CallerToken(Part, frozen=True):
    """A caller's token, which is taken as valid."""

    issuer: Name
    claims: Mapping[str, Any] = {}
    """As in the token: `{groups: [finance]}`."""


class Expectation(Part, frozen=True):
    """One row: a caller, a call, and the answer. What is left out is not sent."""

    verbs: Annotated[tuple[Verb, ...], Meta(min_length=1)]
    """Each must be answered as expected."""
    expect: Annotated[Answer, one_of(Answer)]
    name: Text | None = None
    """What to call it in the output."""
    workload: CallerWorkload | None = None
    token: CallerToken | None = None
    iam_role: RoleArn | None = None
    """The AWS role in the token."""
    address: Text | None = None
    """The IP address that it calls from."""
    headers: Mapping[ConditionHeader, Text] = {}
    model: ModelName | None = None
    """Left out: the server as a whole."""
    version: Version | None = None
    label: Text | None = None
    signature: Text | None = None
    by: Name | None = None
    """The binding that must decide; `default-deny` if none may."""

    def __post_init__(self) -> None:
        if self.model is None and (self.version, self.label, self.signature) != (None,) * 3:
            raise ValueError('"version", "label" and "signature" are of a "model"')
        if self.model is None and any(not calls.Verb(verb).is_admin for verb in self.verbs):
            raise ValueError('expected "model": only verbs of administrators are about the server as a whole')
        if self.version is not None and self.label is not None:
            raise ValueError("a call names a version or a label, never both")
        if self.iam_role is not None and self.token is None:
            raise ValueError('"iamRole" is in a token: expected "token" with its issuer')
        if self.address is not None and address_of(_remote(self.address)) is None:
            raise ValueError(f'"address": {shown(self.address)} is not an IP address')


class Expectations(Part, frozen=True):
    """A file of them."""

    expectations: Annotated[tuple[Expectation, ...], Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class Case:
    """One verb of one expectation."""

    expectation: Expectation
    file: str
    line: int
    verb: calls.Verb

    @property
    def name(self) -> str:
        """What it is called."""
        call = describe(self.call)
        return f"{self.expectation.name}: {call}" if self.expectation.name else call

    @property
    def call(self) -> calls.Call:
        each = self.expectation
        if each.model is None:
            return calls.Call(self.verb)
        return calls.Call(self.verb, (calls.ModelRef(each.model, each.version, each.label, each.signature),))

    def caller(self, trust_domain: str) -> Caller:
        """Who calls. `trust_domain`: the mesh's own."""
        workload, token = self.expectation.workload, self.expectation.token
        found = None
        if workload is not None:
            domain = workload.trust_domain or trust_domain
            path = f"ns/{workload.namespace}/sa/{workload.service_account}"
            found = workload_of(workload.spiffe_id or f"spiffe://{domain}/{path}")
        if token is None:
            return Caller(found)
        subject = str(token.claims.get("sub", "?"))
        return Caller(found, Token(token.issuer, subject, token.claims, float("inf"), self.expectation.iam_role))


@dataclass(frozen=True, slots=True)
class Result:
    """What a policy does about a case."""

    case: Case
    caller: Caller
    explanation: Explanation

    @property
    def answer(self) -> str:
        """See `Answer`."""
        if isinstance(self.explanation.decision, Refusal):
            return "deny" if self.explanation.part is None else "part"
        return "allow"

    @property
    def rule(self) -> str:
        return (self.explanation.part or self.explanation.decision).rule or ""

    @property
    def holds(self) -> bool:
        by = self.case.expectation.by
        return self.answer == self.case.expectation.expect and by in (None, self.rule)

    @property
    def difference(self) -> str:
        """What was expected, and what it is."""
        by = self.case.expectation.by
        expected = self.case.expectation.expect + (f" by {by}" if by else "")
        return f"expected {expected}, got {self.answer} by {self.rule}"


def check(policy: Policy, trust_domain: str, cases: list[Case]) -> list[Result]:
    """What the policy does about each case. `trust_domain`: the mesh's own."""
    results = []
    for case in cases:
        caller = case.caller(trust_domain)
        each = case.expectation
        headers = tuple((name.encode(), value.encode()) for name, value in each.headers.items())
        remote = _remote(each.address) if each.address is not None else ""
        results.append(Result(case, caller, explain(policy, caller, case.call, remote, headers)))
    return results


def read_expectations(path: Path, content: bytes) -> list[Case]:
    """The cases of a file.

    Raises:
        ConfigError: with all problems, each with its line.
    """
    from meshproxy.config.convert import convert
    from meshproxy.config.nodes import BROKEN, Unreadable, read_documents

    problems: list[Problem] = []
    found: list[Case] = []

    def report(line: int, field: str, message: str, code: Code) -> None:
        problems.append(Problem(str(path), line, "", field, message, code))

    try:
        text = content.decode("utf-8-sig")
        for node in read_documents(text, report):
            if isinstance(
                document := convert(node, inspect.type_info(Expectations), path.parent, report), Expectations
            ):
                found += _cases(str(path), node, document)
            assert document is not BROKEN or problems
    except Unreadable as error:
        report(error.line, "", error.message, error.code)
    except UnicodeDecodeError:
        report(0, "", "not UTF-8", Code.UNREADABLE)
    if not found and not problems:
        report(0, "", 'no expectations here: expected a list under "expectations"', Code.MISSING_FIELD)
    if problems:
        raise ConfigError(tuple(sorted(problems)))
    return found


def _cases(file: str, node: Node, document: Expectations) -> Iterator[Case]:
    assert isinstance(node.value, dict)
    lines = [item.line for item in node.value["expectations"].value]
    for line, expectation in zip(lines, document.expectations, strict=True):
        for verb in expectation.verbs:
            yield Case(expectation, file, line, calls.Verb(verb))


def _remote(address: str) -> str:
    """The other end of a connection from this address."""
    return f"[{address}]:0" if ":" in address else f"{address}:0"
