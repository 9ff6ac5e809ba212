"""What has shown a certificate."""

from __future__ import annotations

from typing import Any


class ShownTls:
    """TLS of a connection whose client has shown a certificate (`ssl.SSLObject`)."""

    def __init__(self, der: bytes) -> None:
        self._der = der

    def getpeercert(self, binary_form: bool) -> bytes:
        assert binary_form
        return self._der


def shown_tls(der: bytes) -> Any:
    return ShownTls(der)
