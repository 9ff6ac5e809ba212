"""`meshproxy authz list`: who may do what with which model, by the documents in force, and whether anybody does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from meshproxy.cli import _control_planes, _mesh, _options
from meshproxy.cli._local_page import NoAnswer, printable, read_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshproxy.config.fields import BindingSubject
    from meshproxy.config.sent import SentKind


class Grant(msgspec.Struct, rename="camel"):
    """One rule of one binding."""

    models: list[str]
    policy: str
    action: str
    subjects: list[str]
    verbs: list[str]
    versions: list[str]
    """Versions or labels; empty: all."""
    used: int
    """Calls that the binding permitted or denied in the last hour; a binding may have several rules."""


@click.command("list", short_help="Show who may do what with which model, by the documents in force.")
@click.argument("model", required=False, metavar="[MODEL]")
@_control_planes.options
@_mesh.output
def command(model: str | None, addresses: tuple[str, ...], timeout: float, output: str) -> None:
    """Show the bindings in force at the control plane, those that deny first: for which models, whom, which verbs, and
    how many calls each has decided in the last hour. With a MODEL (or model/NAME), those that concern it.

    \b
    meshproxy authz list
    meshproxy authz list fraud -o wide

    Why one call would be allowed or denied: `meshproxy authz check`.

    Exit status: 0, or 1 if no control plane answers.
    """
    documents = _documents(addresses[0], timeout)
    answers = _mesh.ask(addresses, timeout, 3_600.0)
    _mesh.warn(answers)
    used: dict[str, int] = {}
    for tally in answers.tallies().values():
        for name, count in tally.allowed.items():
            used[name] = used.get(name, 0) + count
        for reason, count in tally.denied.items():
            binding = reason.rpartition(": ")[0]
            used[binding] = used.get(binding, 0) + count
    wanted = model.removeprefix("model/") if model is not None else None
    grants = sorted(
        _grants(documents, used, wanted), key=lambda each: (each.action != "deny", each.models, each.policy)
    )
    if output == "json":
        _options.print_page("Grants", {"model": wanted, "grants": msgspec.to_builtins(grants)})
        return
    if not grants:
        what = f" for {printable(wanted)}" if wanted is not None else ""
        click.echo(f"no bindings are in force{what}", err=True)
        return
    _print(grants, wide=output == "wide")


def _documents(address: str, timeout: float) -> list[SentKind]:
    """Of one control plane: all have the same. Raises ClickException."""
    from meshproxy.config.sent import decode

    where = read_address(address, "--control", _control_planes.DEFAULT)
    try:
        page = msgspec.json.decode(_mesh.ask_page(where, "/documents", timeout), type=list[msgspec.Raw])
        return [decode(each) for each in page]
    except (NoAnswer, msgspec.DecodeError) as error:
        raise click.ClickException(_control_planes.no_answer("{}:{}".format(*where), error)) from None


def _grants(documents: Sequence[SentKind], used: dict[str, int], model: str | None) -> Iterator[Grant]:
    from meshproxy.config.globs import compile_glob
    from meshproxy.config.schema import ModelRole, ModelRoleBinding

    roles = {each.metadata.name: each.spec for each in documents if isinstance(each, ModelRole)}
    for binding in documents:
        if not isinstance(binding, ModelRoleBinding) or binding.spec.role not in roles:
            continue
        for rule in roles[binding.spec.role].rules:
            if model is not None and not any(compile_glob(glob)(model) for glob in rule.models):
                continue
            yield Grant(
                models=list(rule.models),
                policy=binding.metadata.name,
                action=binding.spec.action,
                subjects=[subject(each) for each in binding.spec.subjects],
                verbs=list(rule.verbs),
                versions=[*map(str, rule.versions), *rule.labels],
                used=used.get(binding.metadata.name, 0),
            )


def subject(each: BindingSubject) -> str:
    """What a subject names, joined with AND: `shop/checkout + token corp(groups=ml) + header x-a`."""
    words = []
    if (workload := each.workload) is not None:
        path = f"{workload.namespace or '*'}/{workload.service_account or '*'}"
        domain = f"{workload.trust_domain}:" if workload.trust_domain is not None else ""
        words.append(workload.spiffe_id or domain + path)
    if (token := each.token) is not None:
        claims = [
            f"{name}={value if isinstance(value, str | int) else '(pattern)'}" for name, value in token.claims.items()
        ]
        claims += ["(path)"] * len(token.claim_paths)
        words.append(f"token {token.issuer}" + (f"({', '.join(claims)})" if claims else ""))
    if each.iam_role is not None:
        words.append(each.iam_role)
    words += [f"from {block}" for block in each.ip_blocks or ()]
    words += [f"not from {block}" for block in each.not_ip_blocks or ()]
    words += [f"header {name}" for name in each.headers]
    return " + ".join(words)


def _print(grants: Sequence[Grant], *, wide: bool) -> None:
    from meshproxy.cli._live_text import print_table
    from meshproxy.cli._status_text import new_table

    table = new_table("MODEL", "POLICY", "ACTION", "SUBJECTS", "VERBS", *(["VERSIONS"] if wide else []), ">USED")
    for each in grants:
        row = [", ".join(each.models), each.policy, each.action, "; ".join(each.subjects), ",".join(each.verbs)]
        row += [", ".join(each.versions) or "all"] if wide else []
        table.add_row(*row, f"{each.used:,}")
    print_table(table, wide=wide)
