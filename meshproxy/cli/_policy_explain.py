"""`meshproxy policy explain`: what the documents permit, without a running sidecar, and why."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from meshproxy.cli import _options, _policy_caller, _policy_sets
from meshproxy.cli._local_page import printable
from meshproxy.cli.main import FOUND
from meshproxy.config.fields import API_VERSION, VerbWord
from meshproxy.refusal import Refusal

if TYPE_CHECKING:
    from meshproxy.cli._policy_caller import Seen
    from meshproxy.identity.caller import Caller
    from meshproxy.inference.call import Call
    from meshproxy.policy.explain import Explanation


@click.command("explain", short_help="Decide a call and show which binding decides it.")
@_policy_sets.config
@click.option(
    "--as",
    "spiffe_id",
    metavar="SPIFFE-ID",
    help="The SPIFFE id in the caller's certificate.  [default: no certificate]",
)
@click.option(
    "--cert",
    "certificate",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Instead of --as: the caller's certificate, PEM or DER.",
)
@click.option(
    "--issuer",
    metavar="NAME",
    help="The issuer of the caller's token, by its name in the MeshConfig.  [default: no token]",
)
@click.option("--claims", metavar="JSON", help='The token\'s claims, such as \'{"groups": ["finance"]}\'.')
@click.option("--iam-role", metavar="ARN", help="The AWS IAM role in the token.")
@click.option(
    "--token",
    "token_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Instead of --issuer, --claims and --iam-role: the caller's token. It is not printed, its claims are.",
)
@click.option(
    "--jwks",
    "key_sets",
    multiple=True,
    metavar="ISSUER=FILE",
    help="For --token: the JWK set of an issuer whose keys are behind a URL, as nothing is fetched; may be repeated.",
)
@click.option(
    "--address",
    metavar="IP",
    help="The address that the call comes from.  [default: not known, so conditions on it cannot be evaluated]",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME:VALUE",
    help="A header of the call; may be repeated.",
)
@click.option(
    "--verb",
    required=True,
    type=click.Choice(get_args(VerbWord)),
    metavar="VERB",
    help=f"What the call does: {', '.join(get_args(VerbWord))}.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="The model that is called; may be repeated. Leave it out for verbs of the whole server.",
)
@click.option("--version", metavar="VERSION", help="The version that the call names.")
@click.option("--label", metavar="LABEL", help="The version label that the call names.")
@click.option(
    "--signature",
    metavar="NAME",
    help="The signature that the call names. Leave it out for REST: it is in the body, which is not read.",
)
@click.option("--all", "show_all", is_flag=True, help="Show bindings that match neither the caller nor the call, too.")
@_policy_sets.trust_domain
@_options.output
def explain(
    paths: tuple[str, ...],
    spiffe_id: str | None,
    certificate: Path | None,
    issuer: str | None,
    claims: str | None,
    iam_role: str | None,
    token_file: Path | None,
    key_sets: tuple[str, ...],
    address: str | None,
    headers: tuple[str, ...],
    verb: str,
    models: tuple[str, ...],
    version: str | None,
    label: str | None,
    signature: str | None,
    show_all: bool,
    trust_domain: str | None,
    output: str,
) -> None:
    """Decide a call as a sidecar with these documents would, and show which binding decides (*), which ones nearly do
    (~), and what they lack.

    \b
    meshproxy policy explain --config first.yaml --verb predict --model finance-prod \\
        --as spiffe://dev.example/ns/pricing/sa/quoter --issuer corp --claims '{"groups": ["finance"]}'
    meshproxy policy explain --config first.yaml --verb predict --model finance-prod --cert tls.crt --token token.jwt

    What --as, --issuer and --claims say is assumed to be proven. --cert and --token are examined as a sidecar does, and
    the output has what is in them, or why they are refused. The documents may be the policy alone: then name the
    --trust-domain.

    Exit status: 0 if the call is permitted, 3 if it is denied.
    """
    from meshproxy.identity.caller import Caller
    from meshproxy.policy import explain as reasons

    if spiffe_id is not None and certificate is not None:
        raise click.UsageError("--as and --cert exclude each other")
    if token_file is not None and (issuer is not None or claims is not None or iam_role is not None):
        raise click.UsageError("--token excludes --issuer, --claims and --iam-role")
    if key_sets and token_file is None:
        raise click.UsageError("--jwks needs --token")
    call = _call(verb, models, version, label, signature)
    documents = _policy_sets.load(paths)
    domain = _policy_sets.domain_of([documents], trust_domain)
    seen = _policy_caller.Seen(
        _policy_caller.from_certificate(documents, domain, certificate)
        if certificate is not None
        else _policy_caller.from_id(documents, domain, spiffe_id),
        _policy_caller.from_token(documents, token_file, key_sets)
        if token_file is not None
        else _policy_caller.from_claims(documents, issuer, claims, iam_role),
    )
    caller = Caller(seen.workload.found, seen.token.found)
    policy = _policy_sets.compiled(documents, domain)
    found = reasons.explain(policy, caller, call, _remote(address), tuple(map(_header, headers)))
    if output == "json":
        _print_json(found, seen, caller, reasons.describe(call))
    else:
        _print_text(found, seen, caller, reasons.describe(call), show_all=show_all)
    if seen.refused or isinstance(found.decision, Refusal):
        sys.exit(FOUND)


def _call(verb: str, models: tuple[str, ...], version: str | None, label: str | None, signature: str | None) -> Call:
    from meshproxy.config.values import read_version
    from meshproxy.inference.call import Call, ModelRef, Verb

    if version is not None and label is not None:
        raise click.UsageError("--version and --label exclude each other: a call names one of them at most")
    if not models and (version is not None or label is not None or signature is not None):
        raise click.UsageError("--version, --label and --signature need --model")
    if not models and not Verb(verb).is_admin:
        raise click.UsageError(f"the verb {verb} needs --model")
    if version is not None:
        version = _options.read(read_version, version, "--version")
    return Call(Verb(verb), tuple(ModelRef(name, version, label, signature) for name in models))


def _remote(address: str | None) -> str:
    """The other end of a connection from this address; empty if it is not known."""
    from meshproxy.config.ip_blocks import address_of

    if address is None:
        return ""
    remote = f"[{address}]:0" if ":" in address else f"{address}:0"
    if address_of(remote) is None:
        raise click.BadParameter(f"{address!r} is not an IP address", param_hint="--address")
    return remote


def _header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.BadParameter(f"expected NAME:VALUE, got {text!r}", param_hint="--header")
    return name.strip().lower().encode(), value.strip().encode()


def _print_text(found: Explanation, seen: Seen, caller: Caller, what: str, *, show_all: bool) -> None:
    decision = found.decision
    if seen.refused:
        click.echo(f"DENY   {what}")
        for each in seen.refused:
            click.echo(f"by     {each.what}, which is refused: {printable(each.problem)}")
    elif isinstance(decision, Refusal):
        click.echo(f"DENY   {what}")
        click.echo(f"by     {decision.rule}")
        if found.part is not None:
            click.echo(f"part   {', '.join(found.part.conditions)}, by {found.part.rule}: the answer has no others")
        else:
            click.echo(f"answer {decision.http_status} {decision.reason.label}: {decision.message}")
    else:
        click.echo(f"ALLOW  {what}")
        click.echo(f"by     {decision.rule}")
    click.echo(f"caller {printable(str(caller))}")
    for part in (seen.workload, seen.token):
        for name, value in part.facts:
            click.echo(f"{part.word:<6} {printable(name)}: {printable(value)}")
        for note in part.notes:
            click.echo(f"note: {printable(note)}", err=True)
    if seen.refused:
        return
    if decision.audits:
        click.echo(f"audit  {', '.join(decision.audits)}")
    for condition in decision.conditions:
        click.echo(f"when   {condition}")
    shown = [step for step in found.steps if step.applies or step.is_near or show_all]
    for step in shown:
        click.echo()
        mark = "*" if step.applies else "~" if step.is_near else " "
        click.echo(f"{mark} {step.action} {step.binding} (role {step.role})")
        for head, lines in (("caller:", step.caller), ("call:", step.call)):
            for line in lines:
                click.echo(f"    {head:<7} {printable(line)}")
                head = ""
    if hidden := len(found.steps) - len(shown):
        bindings = "binding matches" if hidden == 1 else "bindings match"
        click.echo(f"\n{hidden:,} other {bindings} neither the caller nor the call: --all")


def _print_json(found: Explanation, seen: Seen, caller: Caller, what: str) -> None:
    decision = found.decision
    refused = {each.what: each.problem for each in seen.refused}
    denied = bool(refused) or isinstance(decision, Refusal)
    reason = decision.reason.label if isinstance(decision, Refusal) and not refused else None
    answer = {
        "apiVersion": API_VERSION,
        "kind": "AuthzCheck",
        "decision": "DENY" if denied else "ALLOW",
        "refused": refused,
        "rule": None if refused else decision.rule,
        "part": found.part.rule if found.part is not None and not refused else None,
        "audits": list(decision.audits),
        "conditions": list(decision.conditions),
        "reason": reason,
        "message": decision.message if isinstance(decision, Refusal) and not refused else None,
        "caller": str(caller),
        "certificate": dict(seen.workload.facts),
        "claims": dict(seen.token.facts),
        "notes": [*seen.workload.notes, *seen.token.notes],
        "call": what,
        "steps": [asdict(step) for step in found.steps] if not refused else [],
    }
    click.echo(json.dumps(answer, indent=2))
