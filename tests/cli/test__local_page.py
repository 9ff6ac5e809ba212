"""Pages of ports on this host; what they say is tested with the commands."""

from __future__ import annotations

from http.client import BadStatusLine

import click
import pytest

from meshproxy.cli._local_page import MOST_CHARACTERS, NoAnswer, failure, get, printable, read_address
from tests.cli.conftest import Serve


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("localhost:65535", ("localhost", 65_535)),
        ("[::1]:80", ("::1", 80)),
        (":80", ("127.0.0.1", 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert read_address(text, "--x", "127.0.0.1:9") == address


@pytest.mark.parametrize("text", ["", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:0", "127.0.0.1:65536", "10.0.0.1:80"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        read_address(text, "--x", "127.0.0.1:9")
    assert caught.value.param_hint == "--x"


@pytest.mark.parametrize("text", ["http://127.0.0.1:80", "https://localhost:80", "http://127.0.0.1:80/", "unix:/a:80"])
def test_a_url_on_this_host_is_not_told_to_be_on_another_one(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"expected HOST:PORT, such as 127\.0\.0\.1:9"):
        read_address(text, "--x", "127.0.0.1:9")


def test_a_page(serve: Serve) -> None:
    host, _, port = serve("found", 418).rpartition(":")
    assert get((host, int(port)), "/status", 5.0) == (418, b"found")


def test_no_page(serve: Serve) -> None:
    with pytest.raises(NoAnswer, match="Connection refused"):
        get(("127.0.0.1", 1), "/", 5.0)
    host, _, port = serve("", hangs=True).rpartition(":")
    with pytest.raises(NoAnswer, match=r"no answer within 0\.05 s"):
        get((host, int(port)), "/", 0.05)


def test_text_of_others_moves_no_cursor() -> None:
    assert printable("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"
    assert printable("café") == "café"


def test_what_whoever_listens_there_says_is_escaped_and_cut() -> None:
    error = BadStatusLine("\x1b]0;a title\x07\x9b2J" + "x" * 1_000)
    assert failure(error, 1.0).startswith("\\x1b]0;a title\\x07\\x9b2J")
    assert len(failure(BadStatusLine("y" * 1_000), 1.0)) == MOST_CHARACTERS
