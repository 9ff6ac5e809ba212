"""`meshproxy check --pre`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from meshproxy.cli import _cluster, _extra, _options

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meshproxy.control.finding import Finding
    from meshproxy.control.precheck import Note

NAMES = ("kubeconfig", "context", "injector", "cert_manager", "control_namespace", "kubernetes", "listen", "capture")


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What is to be installed, as for `meshproxy install`, and where."""
    made: list[Callable[[Any], Any]] = [
        _cluster.options,
        click.option(
            "--injector",
            type=click.Choice(["webhook", "policy", "none"]),
            default="webhook",
            show_default=True,
            help="--pre: who is to put sidecars into pods.",
        ),
        click.option("--cert-manager", is_flag=True, help="--pre: cert-manager is to make the webhook's certificate."),
        click.option(
            "--control-namespace",
            default="meshproxy",
            show_default=True,
            help="--pre: where the control plane is to run.",
        ),
        click.option(
            "--kubernetes",
            default="1.29",
            show_default=True,
            metavar="VERSION",
            help="--pre: the release that sidecars are to be made for.",
        ),
        click.option(
            "--listen",
            type=click.Choice(["[::]", "0.0.0.0"]),
            default="[::]",
            show_default=True,
            help="--pre: the address of the sidecars' ports.",
        ),
        click.option("--capture", is_flag=True, help="--pre: pods are to use traffic capture."),
    ]
    for option in reversed(made):
        command = option(command)
    return command


def precheck(
    *,
    kubeconfig: Path | None,
    context: str | None,
    injector: str,
    cert_manager: bool,
    control_namespace: str,
    kubernetes: str,
    listen: str,
    capture: bool,
) -> tuple[list[Finding], list[Note]]:
    """What a cluster lacks, and what cannot be judged from here. Raises UsageError and CannotAsk."""
    from meshproxy.config import values
    from meshproxy.injection.settings import read_release
    from meshproxy.installation.choices import Injection
    from meshproxy.installation.kinds import Plan

    if cert_manager and injector != "webhook":
        raise click.UsageError("--cert-manager is for the webhook")
    plan = Plan(
        injection=Injection(injector),
        cert_manager=cert_manager,
        namespace=_options.read(values.read_name, control_namespace, "--control-namespace"),
        listen=listen,
        kubernetes=_options.read(read_release, kubernetes, "--kubernetes"),
        capture=capture,
    )
    with _extra.needed("control", _cluster.CannotAsk):
        from meshproxy.control import precheck
        from meshproxy.control.cluster_facts import gather

    facts = _cluster.ask(kubeconfig, context, lambda client: gather(client, plan, time.time))
    return precheck.precheck(facts, plan), precheck.notes(facts, plan)
