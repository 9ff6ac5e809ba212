from __future__ import annotations

import inspect

from meshproxy.cli import _installation
from meshproxy.cli.install import command


def test_each_option_is_read() -> None:
    assert {each.name for each in command.params} == set(inspect.signature(_installation.objects).parameters)


def test_upgrade_takes_the_same() -> None:
    from meshproxy.cli.upgrade import command as upgrade

    extra = {"kubeconfig", "context", "output"}
    assert {each.name for each in upgrade.params} == {each.name for each in command.params} | extra
