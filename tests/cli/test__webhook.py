from __future__ import annotations

import click
import pytest
from click.testing import CliRunner, Result

from meshproxy.cli._webhook import WebhookChoices, webhook_options
from tests.injection.pods import SETTINGS

WEBHOOK = ["--webhook", "127.0.0.1:0", "--sidecar-image", "meshproxy:1"]
FILES = ["--webhook-certificate", "tls.crt", "--webhook-key", "tls.key"]
OWN = "spiffe://m.example/ns/mesh/sa/control"


@click.command()
@webhook_options
@click.option("--other")
def command(webhook: WebhookChoices, other: str | None) -> None:
    injector = webhook.injector(OWN, "mesh")
    if injector is None:
        click.echo(f"none {other}")
    else:
        settings = injector.sidecars(SETTINGS.trust_bundle)
        click.echo(f"{injector.listen} {injector.names} {injector.configuration}")
        click.echo(f"{[str(each) for each in injector.files or ()]}")
        click.echo(f"{settings.image} {settings.control_plane_id} {settings.namespace} {settings.kubernetes}")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_without_a_webhook() -> None:
    assert run("--other", "x").output == "none x\n"


def test_with_one() -> None:
    result = run(*WEBHOOK, "--webhook-configuration", "a", "--webhook-name", "b", "--webhook-name", "c")
    assert result.output.splitlines() == ["127.0.0.1:0 ('b', 'c') a", "[]", f"meshproxy:1 {OWN} mesh (1, 29)"]
    assert "['tls.crt', 'tls.key']" in run(*WEBHOOK, *FILES).output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--webhook", "0.0.0.0:0"], "--sidecar-image"),
        (["--webhook-configuration", "a"], "no webhook without --webhook"),
        ([*WEBHOOK, "--webhook", "nowhere"], "--webhook: "),
        ([*WEBHOOK, "--webhook-key", "a"], "go together"),
        ([*WEBHOOK, *FILES, "--webhook-configuration", "a"], "leave it out"),
        ([*WEBHOOK, "--webhook-name", "a b"], "--webhook-name: "),
        ([*WEBHOOK, "--sidecar-image", "a b"], "--sidecar-image: "),
        ([*WEBHOOK, "--sidecar-control-plane", "a"], "--sidecar-control-plane: "),
        ([*WEBHOOK, "--sidecar-server", "A"], "--sidecar-server: "),
        ([*WEBHOOK, "--kubernetes", "new"], "--kubernetes: "),
    ],
)
def test_options_that_make_no_sense(arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.output
