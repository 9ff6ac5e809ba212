"""`meshproxy check --pre`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from meshproxy.cli import _cluster, _extra, _injection, _installation, _options

if TYPE_CHECKING:
    from pathlib import Path

    from meshproxy.control.finding import Finding
    from meshproxy.control.precheck import Note

NAMES = ("kubeconfig", "context", "injector", "cert_manager", "control_namespace", "kubernetes", "listen", "capture")


options = _options.together(
    _cluster.options,
    _installation.injector_option("--pre: who is to put sidecars into pods."),
    _installation.cert_manager_option("--pre: the issuer of cert-manager that is to make the webhook's certificate."),
    _injection.namespace_option("--pre: where the control plane is to run."),
    _injection.kubernetes_option("--pre: the release that sidecars are to be made for."),
    _injection.listen_option("--pre: the address of the sidecars' ports."),
    click.option("--capture", is_flag=True, help="--pre: pods are to use traffic capture."),
)
"""What is to be installed, as for `meshproxy install`, and where."""


def precheck(
    *,
    kubeconfig: Path | None,
    context: str | None,
    injector: str,
    cert_manager: str | None,
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

    issuer = _installation.read_issuer(cert_manager)
    if issuer is not None and injector != "webhook":
        raise click.UsageError("--cert-manager is for the webhook")
    plan = Plan(
        injection=Injection(injector),
        cert_manager=issuer is not None,
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
