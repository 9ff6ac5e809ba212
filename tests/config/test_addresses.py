"""Where a model server listens: what is read from a document, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.addresses import (
    SOCKET_PATH_BYTES,
    read_check_path,
    read_metrics_path,
    read_server_address,
    read_server_name,
    resolve_server_address,
)

FOLDER = Path("/etc/mesh")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("127.0.0.1:8500", "127.0.0.1:8500"),
        ("[0::1]:8500", "[::1]:8500"),
        ("tf_serving:8501", "tf_serving:8501"),
        ("unix.example:80", "unix.example:80"),
        ("unix:/run/serving/grpc.sock", "unix:/run/serving/grpc.sock"),
        ("unix:///run/serving/grpc.sock", "unix:/run/serving/grpc.sock"),
        ("unix:grpc.sock", "unix:grpc.sock"),
        ("unix:../a b/\u00fc", "unix:../a b/\u00fc"),
        ("unix:./8500", "unix:./8500"),
    ],
)
def test_addresses(written: str, read: str) -> None:
    assert read_server_address(written) == read


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("unix:8500", 'may be a port of the host "unix"'),
        ("unix:", 'expected "unix:" and the path'),
        ("unix:///", 'expected "unix:" and the path'),
        ("unix:run/", 'expected "unix:" and the path'),
        ("unix:////run/a", 'expected "unix:" and the path'),
        ("unix://run/a", "names a host before the path"),
        ("unix://", "names a host before the path"),
        ("unix:@serving", "is an abstract socket"),
        ("unix-abstract:serving", "is an abstract socket"),
        ("unix:/a%20b", "which gRPC reads differently"),
        ("unix:/a?b", "which gRPC reads differently"),
        ("unix:/a#b", "which gRPC reads differently"),
        ("unix:/a\0b", "which gRPC reads differently"),
        ("unix:/a\n", "which gRPC reads differently"),
        ("unix:/\udc80", "which gRPC reads differently"),
        ("/run/serving/grpc.sock", 'write "unix:" before the path'),
        ("./grpc.sock", 'write "unix:" before the path'),
        ("UNIX:/run/a", 'expected "HOST:PORT"'),
        ("http://127.0.0.1:8501", 'expected "HOST:PORT"'),
        (8500, 'expected "HOST:PORT"'),
        (None, 'expected "HOST:PORT"'),
        (["unix:/a"], 'expected "HOST:PORT"'),
    ],
)
def test_what_is_no_address(written: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_server_address(written)


def test_a_path_is_relative_to_its_document() -> None:
    assert resolve_server_address(FOLDER, "unix:grpc.sock") == "unix:/etc/mesh/grpc.sock"
    assert resolve_server_address(FOLDER, "unix:/run/grpc.sock") == "unix:/run/grpc.sock"
    assert resolve_server_address(FOLDER, "10.0.0.1:8500") == "10.0.0.1:8500"


@pytest.mark.parametrize("letter", ["a", "\u00fc"])
def test_the_longest_path_is_counted_in_bytes_and_from_the_root(letter: str) -> None:
    """A path that the kernel would cut names another socket, or none."""
    left = SOCKET_PATH_BYTES - len("/etc/mesh/")
    longest = letter * (left // len(letter.encode()))
    longest += "x" * (left - len(longest.encode()))
    assert resolve_server_address(FOLDER, f"unix:{longest}") == f"unix:/etc/mesh/{longest}"
    with pytest.raises(ValueError, match=r"at most 107 bytes, .* has 108"):
        resolve_server_address(FOLDER, f"unix:{longest}x")


@given(st.text() | st.from_regex(r"unix:(//)?/?[a-z./%@]*", fullmatch=True) | st.integers() | st.none())
def test_anything_is_read_or_refused(value: object) -> None:
    try:
        read = read_server_address(value)
    except ValueError:
        return
    assert read_server_address(read) == read


@pytest.mark.parametrize("path", ["/metrics", "/monitoring/prometheus/metrics", "/a/", "/v1metrics", "/v2/x", "/..."])
def test_where_a_metrics_page_may_be(path: str) -> None:
    assert read_metrics_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "metrics", "//metrics", "/a//b", "/.", "/a/../b", "/a%20b", "/a?b", "/a#b", "/a b", "/a;b"),
        *("/\u00fc", "/a\n", "/" + "a" * 256, 1, None, ["/a"]),
    ],
)
def test_what_is_no_path_of_a_metrics_page(path: object) -> None:
    with pytest.raises(ValueError, match="expected a path such as"):
        read_metrics_path(path)


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/models/m", "/V1/models/m/metadata", "/v1/metrics"])
def test_a_metrics_page_never_shadows_a_model(path: str) -> None:
    with pytest.raises(ValueError, match="may be a model's"):
        read_metrics_path(path)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Serving.Example.", "serving.example"),
        ("tf_serving", "tf_serving"),
        ("10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
        ("[0::1]", "::1"),
    ],
)
def test_names_of_certificates(written: str, read: str) -> None:
    assert read_server_name(written) == read


@pytest.mark.parametrize(
    "written", ["", "*.example", "10.0.0.256", "1", "a.1", "0x7f000001", "127.1.", "spiffe://a/b", "a:80", "[", 1, None]
)
def test_what_is_no_name_of_a_certificate(written: object) -> None:
    with pytest.raises(ValueError, match="expected a host name"):
        read_server_name(written)


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/models/a%2Fb?full=1", f"/{'a' * 1023}"])
def test_paths_of_health_checks(path: str) -> None:
    assert read_check_path(path) == path


@pytest.mark.parametrize(
    "path", ["", "healthz", "http://127.0.0.1/healthz", "/a b", "/a#b", "/%", "/ä", f"/{'a' * 1024}", "/a\n", 1, None]
)
def test_what_is_no_path_of_a_health_check(path: object) -> None:
    with pytest.raises(ValueError, match='such as "/healthz"'):
        read_check_path(path)
