"""`meshproxy upgrade`: what would change in a cluster."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from meshproxy import __version__
from meshproxy.cli import _cluster, _control_planes, _extra, _installation, _options

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

    from meshproxy.control.finding import Unknown
    from meshproxy.control.upgrade_plan import Answer, Change, LeftOver, Upgrade

WIDTH = 100


@click.command("upgrade", short_help="Say what an upgrade would change in a cluster.")
@_cluster.options
@_options.output
@_installation.options
def command(kubeconfig: Path | None, context: str | None, output: str, only: tuple[str, ...], **options: Any) -> None:
    """Say what would change in a cluster if what `meshproxy install` prints with these options were applied: every
    object that would be made or changed, with the difference; those that this release does not have any more; and what
    is dangerous about it. Nothing is written: the API server is asked for dry runs.

    Then apply it:

    \b
        meshproxy install OPTIONS | kubectl apply -f -

    \b
    Example:
        meshproxy upgrade --image registry.example.com/meshproxy:0.2.0 --trust-domain prod.example

    Exit status: 0 if nothing would change, 1 if something would, 2 if it cannot be applied, must not be, or if the
    cluster cannot be asked.
    """
    with _extra.needed("control", _cluster.CannotAsk):
        from meshproxy.control import upgrade_facts
    from meshproxy.control.finding import Unknown
    from meshproxy.control.upgrade_plan import upgrade

    wanted = _installation.objects(only=only, **options)

    async def ask(client: httpx2.AsyncClient) -> tuple[list[Answer], list[LeftOver] | Unknown]:
        answers = await upgrade_facts.gather(client, wanted)
        # Of a part nobody can say what is left over: the other parts have objects, too.
        return answers, [] if only else await upgrade_facts.left_over(client, wanted)

    answers, left_over = _cluster.ask(kubeconfig, context, ask)
    unknown = {answer.why if isinstance(answer, Unknown) else "" for answer in answers}
    if len(unknown) == 1 and (reason := unknown.pop()):  # nobody answers: said once, not of each object
        raise _cluster.CannotAsk(f"{reason}: look at --kubeconfig and --context: kubectl cluster-info")
    found = upgrade(wanted, answers, left_over, __version__)
    if output == "json":
        _print_json(found)
    else:
        _print_text(found)
    sys.exit(found.status)


def _print_text(found: Upgrade) -> None:
    from meshproxy.control.upgrade_plan import Action

    for change in found.changes:
        if change.action is not Action.UNCHANGED:
            click.echo(f"{change.action.value}: {change.shown}")
            for line in _below(change):
                click.echo(f"    {line}")
    for danger in found.dangers:
        click.echo(f"\n{_control_planes.MARKS[danger.level]} {click.wrap_text(danger.text, WIDTH, '', '  ')}")
        click.echo(click.wrap_text(f"next: {danger.hint}", WIDTH, "    ", "    "))
    counts = {action: sum(change.action is action for change in found.changes) for action in Action}
    shown = ", ".join(f"{count} {action.value}" for action, count in counts.items() if count)
    click.echo(f"\nresult: {_control_planes.MARKS[found.status]}  {shown}")


def _below(change: Change) -> list[str]:
    """What is said of a change: the difference, why it cannot be, or what to do."""
    from meshproxy.control.upgrade_plan import Action

    if change.action is Action.LEFT_OVER:
        return [f"not of this release with these options: kubectl delete {change.shown}"]
    return change.text.splitlines()


def _print_json(found: Upgrade) -> None:
    page = {
        "status": found.status,
        "changes": [
            {
                "action": change.action.value,
                "kind": change.kind,
                "name": change.name,
                "namespace": change.namespace or None,
                "text": change.text or None,
            }
            for change in found.changes
        ],
        "dangers": [
            {"level": danger.level.name.lower(), "text": danger.text, "hint": danger.hint} for danger in found.dangers
        ],
    }
    _options.print_page("MeshUpgrade", page)
