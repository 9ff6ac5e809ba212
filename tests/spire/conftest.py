"""Nothing here runs without the programs that `make spire` builds."""

from __future__ import annotations

import pytest

from tests.spire.spire import BUILT


def pytest_configure(config: pytest.Config) -> None:
    if not (BUILT / "peer").is_file():
        pytest.exit("SPIRE is started from SPIRE_BIN: run `make spire`", returncode=4)
