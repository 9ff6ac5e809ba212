"""`meshproxy authz`: what the documents permit, without a running sidecar."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, get_args

import click

from meshproxy.cli import _options
from meshproxy.cli.main import FOUND
from meshproxy.config.fields import API_VERSION, VerbWord

if TYPE_CHECKING:
    from meshproxy.config.schema import Documents
    from meshproxy.identity.caller import Caller, Token, Workload
    from meshproxy.policy.explain import Explanation


@click.group("authz")
def command() -> None:
    """Explain authorization decisions."""


@command.command("check", short_help="Decide a call and show which binding decides it.")
@click.option(
    "--config",
    "paths",
    multiple=True,
    required=True,
    metavar="PATH",
    help="A file of documents, or a folder of them; may be repeated.",
)
@click.option(
    "--as",
    "spiffe_id",
    metavar="SPIFFE-ID",
    help="The SPIFFE id in the caller's certificate.  [default: no certificate]",
)
@click.option(
    "--issuer",
    metavar="NAME",
    help="The issuer of the caller's token, by its name in the MeshConfig.  [default: no token]",
)
@click.option("--claims", metavar="JSON", help='The token\'s claims, such as \'{"groups": ["finance"]}\'.')
@click.option("--iam-role", metavar="ARN", help="The AWS IAM role in the token.")
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
@_options.output
def check(
    paths: tuple[str, ...],
    spiffe_id: str | None,
    issuer: str | None,
    claims: str | None,
    iam_role: str | None,
    address: str | None,
    headers: tuple[str, ...],
    verb: str,
    models: tuple[str, ...],
    version: str | None,
    label: str | None,
    signature: str | None,
    output: str,
) -> None:
    """Decide a call as a sidecar with these documents would, and show which binding decides and how each binding
    matches.

    \b
    meshproxy authz check --config first.yaml --verb predict --model finance-prod \\
        --as spiffe://dev.example/ns/pricing/sa/quoter --issuer corp --claims '{"groups": ["finance"]}'

    Certificates and tokens are assumed to be valid. Exit status: 0 if the call is permitted, 3 if it is denied.
    """
    from meshproxy.config.load import load
    from meshproxy.config.problems import ConfigError
    from meshproxy.config.values import read_version
    from meshproxy.identity.caller import Caller
    from meshproxy.inference.call import Call, ModelRef, Verb
    from meshproxy.policy.compile import compile_policy
    from meshproxy.policy.explain import describe, explain
    from meshproxy.refusal import Refusal

    if version is not None and label is not None:
        raise click.UsageError("--version and --label exclude each other: a call names one of them at most")
    if not models and (version is not None or label is not None or signature is not None):
        raise click.UsageError("--version, --label and --signature need --model")
    if not models and not Verb(verb).is_admin:
        raise click.UsageError(f"the verb {verb} needs --model")
    if version is not None:
        try:
            version = read_version(version)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--version") from None
    try:
        documents = load(paths)
    except ConfigError as error:
        raise click.ClickException(f"the documents have problems:\n{error}") from None
    token = _token(documents, issuer, claims, iam_role)
    caller = Caller(_workload(documents, spiffe_id), token)
    call = Call(Verb(verb), tuple(ModelRef(name, version, label, signature) for name in models))
    policy = compile_policy(documents.roles, documents.bindings, documents.mesh.spec.trust_domain)
    explanation = explain(policy, caller, call, _remote(address), tuple(map(_header, headers)))
    print_explanation = _print_json if output == "json" else _print_text
    print_explanation(explanation, caller, describe(call))
    if isinstance(explanation.decision, Refusal):
        sys.exit(FOUND)


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


def _token(documents: Documents, issuer: str | None, claims: str | None, iam_role: str | None) -> Token | None:
    from meshproxy.config.problems import closest
    from meshproxy.config.values import read_role_arn
    from meshproxy.identity.caller import Token

    if issuer is None:
        if claims is not None or iam_role is not None:
            raise click.UsageError("--claims and --iam-role need --issuer")
        return None
    known = [each.name for each in documents.mesh.spec.issuers]
    if issuer not in known:
        hint = closest(issuer, known) or f" (there are: {', '.join(known) or 'none'})"
        raise click.BadParameter(f'the MeshConfig has no issuer "{issuer}"{hint}', param_hint="--issuer")
    try:
        read = json.loads(claims or "{}")
        if not isinstance(read, dict):
            raise ValueError("expected an object")
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not a JSON object: {error}", param_hint="--claims") from None
    try:
        role = read_role_arn(iam_role) if iam_role is not None else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--iam-role") from None
    return Token(issuer, str(read.get("sub", "?")), read, float("inf"), role)


def _workload(documents: Documents, spiffe_id: str | None) -> Workload | None:
    from meshproxy.config.values import read_spiffe_id
    from meshproxy.identity.caller import Workload

    mesh = documents.mesh.spec
    if spiffe_id is None:
        if mesh.mtls == "strict":
            click.echo(
                "note: mtls is strict, so a sidecar refuses a caller without a certificate during the TLS handshake",
                err=True,
            )
        return None
    if mesh.mtls == "disabled":
        raise click.UsageError("--as has no effect: mtls is disabled, so sidecars see no certificates")
    try:
        domain, *path = read_spiffe_id(spiffe_id).removeprefix("spiffe://").split("/")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--as") from None
    trusted = [mesh.trust_domain, *(each.name for each in mesh.trust_domains)]
    if domain not in trusted:
        message = f"{domain} is not a trust domain of the mesh (there are: {', '.join(trusted)})"
        raise click.BadParameter(message, param_hint="--as")
    is_kubernetes = len(path) == 4 and path[0] == "ns" and path[2] == "sa"
    namespace, account = (path[1], path[3]) if is_kubernetes else (None, None)
    return Workload(spiffe_id, domain, namespace, account, not_after=float("inf"))


def _print_text(explanation: Explanation, caller: Caller, what: str) -> None:
    from meshproxy.refusal import Refusal

    decision = explanation.decision
    if isinstance(decision, Refusal):
        click.echo(f"DENY   {what}")
        click.echo(f"by     {decision.rule}")
        click.echo(f"answer {decision.http_status} {decision.reason.label}: {decision.message}")
    else:
        click.echo(f"ALLOW  {what}")
        click.echo(f"by     {decision.rule}")
    click.echo(f"caller {caller}")
    if decision.audits:
        click.echo(f"audit  {', '.join(decision.audits)}")
    for condition in decision.conditions:
        click.echo(f"when   {condition}")
    for step in explanation.steps:
        click.echo()
        click.echo(f"{'*' if step.applies else ' '} {step.action} {step.binding} (role {step.role})")
        for head, lines in (("caller:", step.caller), ("call:", step.call)):
            for line in lines:
                click.echo(f"    {head:<7} {line}")
                head = ""


def _print_json(explanation: Explanation, caller: Caller, what: str) -> None:
    from meshproxy.refusal import Refusal

    decision = explanation.decision
    denied = isinstance(decision, Refusal)
    answer = {
        "apiVersion": API_VERSION,
        "kind": "AuthzCheck",
        "decision": "DENY" if denied else "ALLOW",
        "rule": decision.rule,
        "audits": list(decision.audits),
        "conditions": list(decision.conditions),
        "reason": decision.reason.label if isinstance(decision, Refusal) else None,
        "message": decision.message if isinstance(decision, Refusal) else None,
        "caller": str(caller),
        "call": what,
        "steps": [asdict(step) for step in explanation.steps],
    }
    click.echo(json.dumps(answer, indent=2))
