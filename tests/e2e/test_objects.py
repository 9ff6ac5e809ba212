"""Documents that are objects of a real API server: the tests of tests/control/keeping.py."""

from __future__ import annotations

import pytest

from tests.control.keeping import KeepingTests
from tests.e2e.conftest import RealServer, TestNamespace


@pytest.fixture
def server(namespace: TestNamespace, kinds: None) -> RealServer:
    return RealServer(namespace)


class TestAgainstTheRealOne(KeepingTests):
    """What is in them."""
