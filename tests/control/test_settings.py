"""What an operator chooses about a control plane."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from meshproxy.config.values import Address
from meshproxy.control.settings import Settings
from meshproxy.control.webhook import Injector
from tests.injection.pods import SETTINGS

FREE = Address("127.0.0.1", 0)
ALONE = Settings(Path("x"), "m.example", "spiffe://m.example/ns/meshproxy/sa/control", listen=FREE, web=FREE)
INJECTOR = Injector(FREE, (), lambda bundle: SETTINGS)


def test_a_folder_is_enough() -> None:
    assert not ALONE.needs_cluster
    assert not replace(ALONE, documents=("documents",), namespace="models", injector=INJECTOR).needs_cluster


@pytest.mark.parametrize(
    "changed",
    [
        {"services": True},
        {"token_review": True},
        {"authority_secret": "authority"},
        {"cluster_documents": True},
        {"injector": replace(INJECTOR, configuration="meshproxy-injector")},
    ],
)
def test_what_calls_the_api_server(changed: dict[str, object]) -> None:
    assert replace(ALONE, **changed).needs_cluster  # type: ignore[arg-type]
