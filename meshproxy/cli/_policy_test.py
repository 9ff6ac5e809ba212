"""`meshproxy policy test`: expectations that are kept beside a policy, for people and for CI."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

import click

from meshproxy.cli import _options, _policy_sets
from meshproxy.cli._local_page import printable
from meshproxy.cli.main import FOUND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.config.policy_set import PolicySet
    from meshproxy.policy.decide import Policy
    from meshproxy.policy.expectations import Case, Result

FILE_BYTES = 8 << 20
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document may have (XML 1.0 section 2.2)."""


@click.command("test", short_help="Check a policy against a file of expectations.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path, dir_okay=False))
@_policy_sets.config
@_policy_sets.trust_domain
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the results as JUnit XML, too, which CI systems read.",
)
@_options.output
def test(
    files: tuple[Path, ...], paths: tuple[str, ...], trust_domain: str | None, junit: Path | None, output: str
) -> None:
    """Check that a policy answers calls as FILE expects.

    \b
    expectations:
    - workload: {namespace: pricing, serviceAccount: quoter}
      token: {issuer: corp, claims: {groups: [finance]}}
      model: finance-prod
      verbs: [predict, metadata]
      expect: allow              # or deny, or part: of the answer
      by: finance-team           # may be left out

    What is left out is not sent. Other fields: name, iamRole, address, headers, version, label, signature; of workload:
    trustDomain, or spiffeId alone. The file may lie beside the documents: sidecars take no notice of it.

    Exit status: 0 if all expectations hold, otherwise 3.
    """
    from meshproxy.policy.expectations import check

    documents = _policy_sets.load(paths)
    domain = _policy_sets.domain_of([documents], trust_domain)
    policy = _policy_sets.compiled(documents, domain)
    cases = [case for file in files for case in _cases(file)]
    _check_names(documents, cases)
    results = check(policy, domain, cases)
    if junit is not None:
        _write(junit, _junit(results))
    failed = [result for result in results if not result.holds]
    if output == "json":
        content = {"ok": not failed, "results": list(map(_listed, results)), "untested": _untested(policy, results)}
        _options.print_page("PolicyTest", content)
    else:
        _print(policy, results)
    if failed:
        sys.exit(FOUND)


def _cases(file: Path) -> list[Case]:
    from meshproxy.config.problems import ConfigError
    from meshproxy.policy.expectations import read_expectations

    try:
        with file.open("rb") as content:
            return read_expectations(file, content.read(FILE_BYTES))
    except OSError as error:
        raise click.ClickException(f"{file}: cannot be read: {error.strerror}") from None
    except ConfigError as error:
        raise click.ClickException(f"the expectations have problems:\n{error}") from None


def _check_names(documents: PolicySet, cases: Sequence[Case]) -> None:
    """A misspelt name would let an expectation of `deny` hold for the wrong reason."""
    from meshproxy.config.problems import closest
    from meshproxy.policy.decide import DEFAULT_DENY, NO_ROLES

    issuers = [each.name for each in documents.mesh.spec.issuers] if documents.mesh is not None else None
    bindings = [*(each.metadata.name for each in documents.bindings), DEFAULT_DENY, NO_ROLES]
    for case in cases:
        by, token = case.expectation.by, case.expectation.token
        if by is not None and by not in bindings:
            problem = f'by: no ModelRoleBinding named "{by}"{closest(by, bindings)}'
        elif token is not None and issuers is not None and token.issuer not in issuers:
            problem = f'token.issuer: the MeshConfig has no issuer "{token.issuer}"{closest(token.issuer, issuers)}'
        else:
            continue
        raise click.ClickException(f"the expectations have problems:\n{case.file}:{case.line}: {problem}")


def _untested(policy: Policy, results: Sequence[Result]) -> list[str]:
    """Bindings that decided none of the cases."""
    decided = {name for result in results for name in result.rule.split(", ")}
    return [each.name for each in policy.bindings if each.action != "audit" and each.name not in decided]


def _print(policy: Policy, results: Sequence[Result]) -> None:
    from meshproxy.cli._status_text import counted

    for result in results:
        case = result.case
        place = f"{case.file}:{case.line}"
        if result.holds:
            click.echo(f"ok    {place}: {printable(case.name)}: {result.answer} by {result.rule}")
            continue
        click.echo(f"FAIL  {place}: {printable(case.name)}: {result.difference}")
        for line in _reasons(result):
            click.echo(f"      {printable(line)}")
    failed = sum(not result.holds for result in results)
    click.echo(f"{counted(len(results), 'case')}, {failed} failed", err=True)
    if names := _untested(policy, results):
        click.echo(f"note: no case is decided by {', '.join(names)}", err=True)


def _reasons(result: Result) -> list[str]:
    """What stands behind an answer that is not the expected one."""
    found = [f"caller: {result.caller}"]
    for step in result.explanation.steps:
        if step.applies or step.is_near:
            found += [f"{step.action} {step.binding}: {line}" for line in (*step.caller, *step.call)]
    return found


def _listed(result: Result) -> dict[str, object]:
    return {
        "file": result.case.file,
        "line": result.case.line,
        "name": result.case.name,
        "caller": str(result.caller),
        "expected": result.case.expectation.expect,
        "expectedBy": result.case.expectation.by,
        "answer": result.answer,
        "rule": result.rule,
        "ok": result.holds,
    }


def _junit(results: Sequence[Result]) -> str:
    """The results in the form of JUnit, as Jenkins, GitLab and GitHub read it: a suite for each file."""
    suites = []
    counts = Counter(result.case.file for result in results)
    for file, count in counts.items():
        of_file = [result for result in results if result.case.file == file]
        failures = sum(not result.holds for result in of_file)
        head = f'  <testsuite name={_attribute(file)} tests="{count}" failures="{failures}" errors="0">'
        suites.append(head)
        suites += [_junit_case(result) for result in of_file]
        suites.append("  </testsuite>")
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', "<testsuites>", *suites, "</testsuites>", ""])


def _junit_case(result: Result) -> str:
    case = result.case
    name = f"{case.name} (line {case.line})"
    head = f"    <testcase classname={_attribute(case.file)} name={_attribute(name)} file={_attribute(case.file)}"
    head += f' line="{case.line}" time="0"'
    if result.holds:
        return f"{head}/>"
    text = escape(_clean("\n".join(_reasons(result))))
    return f"{head}>\n      <failure message={_attribute(result.difference)}>{text}</failure>\n    </testcase>"


def _attribute(text: str) -> str:
    return quoteattr(_clean(text))


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path}: cannot be written: {error.strerror}") from None
