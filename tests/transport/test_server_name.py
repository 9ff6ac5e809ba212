from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.certificates import Credentials, client_context, server_context
from meshproxy.transport.server_name import keep_server_name, requested_server_name

CA = DevelopmentCA.create("dev.example")


def credentials(account: str) -> Credentials:
    leaf = CA.issue(f"spiffe://dev.example/ns/tests/sa/{account}")
    return Credentials(leaf.certificate_pem, leaf.key_pem, CA.bundle_pem)


SERVER, CLIENT = server_context(credentials("server")), client_context(credentials("client"))
SERVER.sni_callback = keep_server_name


def shake_hands(name: str | None) -> str:
    """A handshake in memory; what the server knows of the name."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = CLIENT.wrap_bio(to_client, to_server, server_side=False, server_hostname=name)
    server = SERVER.wrap_bio(to_server, to_client, server_side=True)
    pending = [client, server]
    while pending:
        for end in tuple(pending):
            try:
                end.do_handshake()
                pending.remove(end)
            except ssl.SSLWantReadError:
                pass
    return requested_server_name(server)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("models.example", "models.example"),
        ("Models.Example.", "models.example."),
        ("outbound_.8500_._.models.svc", "outbound_.8500_._.models.svc"),
        ("localhost", "localhost"),
        ("x" * 63, "x" * 63),
        (".".join(["x" * 63] * 3), ".".join(["x" * 63] * 3)),
        (None, ""),
        ("127.0.0.1", ""),  # OpenSSL sends no name for an address
        ('a"b\\c', ""),
        ("two words", ""),
        ("line\nbreak", ""),
    ],
)
def test_the_name_of_a_handshake(name: str | None, known: str) -> None:
    assert shake_hands(name) == known


class Connection:
    """Takes attributes as an `ssl.SSLObject` does."""


@pytest.mark.parametrize("name", ["", ".", "a..b", ".a", "a" * 64, "a.b\n", "\u0660.example", "a,b", "[::1]"])
def test_what_is_no_host_name(name: str) -> None:
    tls = Connection()
    keep_server_name(tls, name, SERVER)  # type: ignore[arg-type]
    assert requested_server_name(tls) == ""  # type: ignore[arg-type]


@given(st.none() | st.text(max_size=300) | st.from_regex(r"[a-zA-Z0-9_.-]{0,300}", fullmatch=True))
def test_whatever_is_asked_for_the_name_is_a_short_host_name(name: str | None) -> None:
    tls = Connection()
    keep_server_name(tls, name, SERVER)  # type: ignore[arg-type]
    known = requested_server_name(tls)  # type: ignore[arg-type]
    assert len(known) <= 255
    assert set(known) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
    if known:
        assert name is not None
        assert known == name.lower()


@pytest.mark.parametrize(("size", "is_kept"), [(255, True), (256, False)])
def test_a_name_has_at_most_255_bytes(size: int, is_kept: bool) -> None:
    tls = Connection()
    name = ("x" * 63 + ".") * 3 + "y" * (size - 192 - 2) + ".z" if size - 194 <= 63 else ""
    assert len(name) == size
    keep_server_name(tls, name, SERVER)  # type: ignore[arg-type]
    assert requested_server_name(tls) == (name if is_kept else "")  # type: ignore[arg-type]
